"""Turns of conversations and sentences of documents that are unsuitable: by the user's word lists, or by a score."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.ops.contents import messages_of, with_messages
from danlu.text.ops.keywords import matcher, matches
from danlu.text.ops.operator import Column, Scorer
from danlu.text.ops.own_columns import gather_own
from danlu.text.ops.turns import exchanges
from danlu.text.records import Conversation, Document, Message, Record
from danlu.text.steps.dialogue import UnsuitableScoredStep, UnsuitableStep

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering

_SENTENCE = re.compile(r".+?(?:[。！？!?；;]+[”’」』\"']*|\.(?=\s)|\n|\Z)\s*", re.DOTALL)
_SHOWN = 10  # words named for a record
_GONE = "***"

Step = UnsuitableStep | UnsuitableScoredStep


def change(record: Record, step: UnsuitableStep) -> Record:
    """The record with its unsuitable words masked, or without the turns or sentences that hold them."""
    if step.action == "drop":
        return record
    hits = _hits(step)
    if step.action == "mask":
        return _rewritten(record, step, lambda text: _masked(text, list(hits(text))))
    return _without(record, step, lambda text: bool(hits(text)))


def measure(records: list[Record], step: UnsuitableStep) -> dict[str, Column]:
    """`words`: those that are left, as text; `removed`: how many words, turns or sentences went."""
    hits = _hits(step)
    found = [[word for text in _units(record, step) for word in hits(text).values()] for record in records]
    words = [", ".join(dict.fromkeys(hit[:_SHOWN])) or None for hit in found]
    return {"words": words, "removed": [record.meta.get("unsuitable", 0) for record in records]}


def judge(values: dict[str, Any], step: UnsuitableStep) -> tuple[str, Any] | None:
    """A record with words that no change took out, and the words."""
    return ("unsuitable words", values["words"]) if values["words"] else None


def score(records: list[Record], step: UnsuitableScoredStep, scorer: Scorer) -> dict[str, Column]:
    """`worst` and `scores`: of each turn of the roles, or of each sentence."""
    units = [_units(record, step) for record in records]
    texts = [text for texts in units for text in texts]
    scores = iter(np.asarray(scorer(texts), np.float64).tolist() if texts else [])
    found = [[next(scores) for _ in texts] for texts in units]
    return {"worst": [max(values, default=None) for values in found], "scores": found}


def gather(gathering: Gathering, step: UnsuitableScoredStep) -> list[Path]:
    """`worst` and `scores`, of the records that have a worse unit than may stay."""
    return gather_own(gathering, ["worst", "scores"], above=step.max)


def edit(record: Record, values: dict[str, Any], step: UnsuitableScoredStep) -> Record:
    """The record without its worst turns or sentences, or with *** for them; emptied where nothing else is left."""
    if step.action == "drop":
        return record
    worst = {text for text, value in zip(_units(record, step), values["scores"], strict=True) if value > step.max}
    if step.action == "mask":
        return _rewritten(record, step, lambda text: (_GONE, 1) if text in worst else (text, 0))
    left = _without(record, step, worst.__contains__)
    if any(text in worst for text in _units(left, step)):
        return replace(left, text="") if isinstance(left, Document) else replace(left, messages=[])
    return left


def judge_scored(values: dict[str, Any], step: UnsuitableScoredStep) -> tuple[str, Any] | None:
    """A record with too high a score, and the score."""
    worst = values["worst"]
    return ("unsuitable", round(worst, 3)) if step.action == "drop" and worst is not None and worst > step.max else None


def sentences(text: str) -> list[str]:
    """The sentences of a text, all of it in all of them."""
    return _SENTENCE.findall(text)


def _units(record: Record, step: Step) -> list[str]:
    if isinstance(record, Document):
        return sentences(record.text)
    return [message["content"] for message in messages_of(record) if message["role"] in step.roles]


def _without(record: Record, step: Step, bad: Callable[[str], bool]) -> Record:
    """The record without bad sentences or exchanges; itself where all would go, or an answer to be preferred."""
    if isinstance(record, Document):
        all_parts = sentences(record.text)
        kept = [text for text in all_parts if not bad(text)]
        return _counted(replace(record, text="".join(kept)), len(all_parts) - len(kept)) if kept else record
    parts = exchanges(record.messages)
    last = len(parts) if isinstance(record, Conversation) else len(parts) - 1

    def stays(number: int, part: list[Message]) -> bool:
        return number >= last or not any(message["role"] in step.roles and bad(message["content"]) for message in part)

    left = [part for number, part in enumerate(parts) if stays(number, part)]
    if len(left) == len(parts) or not any(message["role"] == "user" for part in left for message in part):
        return record
    return _counted(replace(record, messages=[m for part in left for m in part]), len(parts) - len(left))


def _rewritten(record: Record, step: Step, change: Callable[[str], tuple[str, int]]) -> Record:
    """The record with each turn or sentence as `change` makes it, which also says how much it changed."""
    total = 0

    def made(text: str) -> str:
        nonlocal total
        text, times = change(text)
        total += times
        return text

    def turn(message: Message) -> Message:
        return {**message, "content": made(message["content"])} if message["role"] in step.roles else message

    if isinstance(record, Document):
        changed: Record = replace(record, text="".join(map(made, sentences(record.text))))
    else:
        changed = with_messages(record, turn)
    return _counted(changed, total) if total else record


def _counted(record: Record, times: int) -> Record:
    return (
        replace(record, meta={**record.meta, "unsuitable": record.meta.get("unsuitable", 0) + times})
        if times
        else record
    )


def _masked(text: str, places: list[tuple[int, int]]) -> tuple[str, int]:
    letters = list(text)
    for begin, end in places:
        letters[begin:end] = "*" * (end - begin)
    return "".join(letters), len(places)


def _hits(step: UnsuitableStep) -> Callable[[str], dict[tuple[int, int], str]]:
    """What finds the places and words of the lists in a text."""
    automaton = matcher(step.files())

    def hits(text: str) -> dict[tuple[int, int], str]:
        lower = text.lower()
        if len(lower) != len(text):  # İ becomes two characters
            lower = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
        return {
            (begin, end): keyword.word
            for begin, end, keyword in matches(automaton, lower)
            if not step.categories or keyword.category in step.categories
        }

    return hits
