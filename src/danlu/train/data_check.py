"""The check of the data that comes before training: the same that `danlu inspect` shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.ledger.files import atomic_file, read_json
from danlu.tokens.inspect import inspect_examples
from danlu.tokens.settings import LossLimits

if TYPE_CHECKING:
    from danlu.tokens.shards import Example
    from danlu.tokens.stream import Stream
    from danlu.tokens.tokenizer import Tokenizer

FILE = "data_check.json"
MOST = 50_000  # examples that are looked at; of more, every so-manieth


def check_data(stream: Stream, tokenizer: Tokenizer, limits: LossLimits, out: Path) -> None:
    """Counts over the examples of `stream`, once a run, and keeps the numbers in `out`/data_check.json.

    Plain documents are all in the loss and are not looked at. Raises UserError, naming every limit that is passed.
    """
    key = {"data": stream.fingerprint, "limits": limits.model_dump(mode="json")}
    if stream.unit in ("window", "document") or _known(out / FILE) == key:
        return
    cutting = stream.length, stream.overlong, stream.answer_budget, stream.oldest_turns
    found = inspect_examples(_examples(stream), tokenizer, *cutting)
    found.refuse(limits)
    with atomic_file(out / FILE) as handle:
        json.dump({**key, "found": found.as_dict()}, handle, ensure_ascii=False, indent=1)


def _examples(stream: Stream) -> Iterator[Example]:
    apart = -(-sum(map(len, stream.sets)) // MOST)
    return (token_set.example(number) for token_set in stream.sets for number in range(0, len(token_set), apart))


def _known(path: Path) -> dict[str, object] | None:
    if not path.is_file():
        return None
    content = read_json(path)
    return {name: content.get(name) for name in ("data", "limits")}
