"""How many tokens a record has, by a tokenizer that a room above brings."""

from __future__ import annotations

import numpy as np

from danlu.text.ops.contents import text_of
from danlu.text.ops.operator import Column, Scorer
from danlu.text.records import Record
from danlu.text.steps.statistics import TokensStep


def score(records: list[Record], step: TokensStep, scorer: Scorer) -> dict[str, Column]:
    """`count`: what the scorer says of each text; `characters_per_token`, 0 without tokens."""
    texts = [text_of(record) for record in records]
    counts = np.asarray(scorer(texts))
    return {"count": counts, "characters_per_token": np.array([len(text) for text in texts]) / np.maximum(counts, 1)}
