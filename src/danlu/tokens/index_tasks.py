"""The tasks that look at encoded shards: what cutting to a length does to them, and how their scores lie.

Nothing is encoded here: an index serves other lengths, weights and orders over the same shards.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from danlu.tokens.columns import Columns
from danlu.tokens.curriculum import count_bands, scores_of
from danlu.tokens.cut import cut
from danlu.tokens.spelling import Spelling


def count_cuts(
    shard: str, spelling: str, each: int, length: int, overlong: Any, answer_budget: int, oldest_turns: Any
) -> dict[str, int]:
    """How many examples of a shard, of `each` documents, cutting to `length` changes, by reason."""
    columns = Columns.open(Path(shard))
    longest = np.diff(columns.document_offsets).reshape(-1, each).max(axis=1, initial=0)
    token_bytes = Spelling.open(Path(spelling)).token_bytes
    reasons: Counter[str] = Counter()
    for number in np.flatnonzero(longest > length).tolist():
        documents = [columns[number * each + side] for side in range(each)]
        reason = cut(documents, length, overlong, answer_budget, token_bytes, oldest_turns).reason
        reasons.update([reason] if reason else [])
    return dict(reasons)


def sample_scores(shard: str, each: int, column: int | None, high_first: bool, most: int) -> dict[str, Any]:
    """{"examples", "scored", "sample"}: how many have a score, and `most` of these, evenly over all of them."""
    scores = scores_of(Columns.open(Path(shard)), each, column, high_first)
    known = np.sort(scores[~np.isnan(scores)])
    places = np.linspace(0, len(known) - 1, min(len(known), most)).round().astype(np.int64)
    return {"examples": len(scores), "scored": len(known), "sample": known[places].tolist()}


def grade(shard: str, each: int, column: int | None, high_first: bool, edges: list[float]) -> list[int]:
    """How many examples of a shard lie in each band."""
    return count_bands(scores_of(Columns.open(Path(shard)), each, column, high_first), edges)
