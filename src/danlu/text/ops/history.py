"""Long conversations cut to their newest turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.ops.contents import messages_of
from danlu.text.ops.operator import Column, Scorer
from danlu.text.ops.own_columns import gather_own
from danlu.text.records import Conversation, Document, Message, Record
from danlu.text.steps.dialogue import HistoryStep, HistoryTokensStep

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering


def cut(record: Record, step: HistoryStep) -> Record:
    """The record without its oldest exchanges, as many as are too many; their number in `meta.cut`."""
    return without_oldest(record, _too_many(record, lambda message: len(message["content"]), step.characters))


def measure(records: list[Record], step: HistoryStep | HistoryTokensStep) -> dict[str, Column]:
    """`cut`: how many messages were cut off."""
    return {"cut": [record.meta.get("cut", 0) for record in records]}


def score(records: list[Record], step: HistoryTokensStep, scorer: Scorer) -> dict[str, Column]:
    """`cut`: how many messages are to be cut off."""
    messages = [message for record in records for message in messages_of(record)]
    counts = iter(np.asarray(scorer([message["content"] for message in messages])).tolist() if messages else [])
    sizes = {id(message): size for message, size in zip(messages, counts, strict=True)}
    return {"cut": [_too_many(record, lambda message: sizes[id(message)], step.tokens) for record in records]}


def gather(gathering: Gathering, step: HistoryTokensStep) -> list[Path]:
    """`cut`, of the records that are cut."""
    return gather_own(gathering, ["cut"], above=0)


def edit(record: Record, values: dict[str, Any], step: HistoryTokensStep) -> Record:
    """The record without its oldest exchanges."""
    return without_oldest(record, values["cut"])


def without_oldest(record: Record, count: int) -> Record:
    """The record without so many of its oldest messages, its system prompt not among them."""
    if isinstance(record, Document) or not count:
        return record
    system = _system(record.messages)
    kept = [*record.messages[:system], *record.messages[system + count :]]
    return replace(record, messages=kept, meta={**record.meta, "cut": record.meta.get("cut", 0) + count})


def _too_many(record: Record, size: Callable[[Message], int], most: int) -> int:
    """How many messages are to go so that the rest, which begins with the user, has at most `most`."""
    if isinstance(record, Document):
        return 0
    system = _system(record.messages)
    left = most - sum(map(size, record.messages[:system]))
    if not isinstance(record, Conversation):
        left -= max(sum(map(size, record.chosen)), sum(map(size, record.rejected)))
    history = record.messages[system:]
    starts = [place for place, message in enumerate(history) if message["role"] == "user"]
    first = starts[-1] if starts else 0
    for place in reversed(starts):
        if sum(map(size, history[place:])) > left:
            break
        first = place
    return first if starts[:1] != [first] else 0


def _system(messages: list[Message]) -> int:
    return next((place for place, message in enumerate(messages) if message["role"] != "system"), len(messages))
