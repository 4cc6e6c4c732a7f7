"""Tags of what users say of themselves, or of what a column or a classifier says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.ops.contents import messages_of, text_of
from danlu.text.ops.operator import Column, Scorer
from danlu.text.ops.own_columns import gather_own
from danlu.text.ops.said import sayings
from danlu.text.records import Record
from danlu.text.select import column
from danlu.text.steps.dialogue import TAGS, Tag, TagsScoredStep, TagsStep

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering

_LONGEST = 2000  # characters; longer turns hold texts, in which others say I
_CLOSE = 0.06  # two values of nearly the same confidence contradict each other


def change(record: Record, step: TagsStep) -> Record:
    """The record with `meta.tags`."""
    found = {tag: made for tag in step.find if (made := _carried(record, step, tag))}
    found |= {tag: made for tag, made in _said(record, step).items() if tag not in found}
    return _tagged(record, found)


def measure(records: list[Record], step: TagsStep) -> dict[str, Column]:
    """For each tag, its value."""
    tags = [record.meta.get("tags", {}) for record in records]
    return {tag: [found.get(tag, {}).get("value") for found in tags] for tag in step.find}


def score(records: list[Record], step: TagsScoredStep, scorer: Scorer) -> dict[str, Column]:
    """`confidence` and `label` of the likeliest label."""
    scores = np.asarray(scorer([_users_text(record) for record in records]), np.float64).reshape(-1, len(step.labels))
    best = scores.argmax(1)
    return {"confidence": scores.max(1, initial=0.0), "label": [step.labels[place] for place in best]}


def gather(gathering: Gathering, step: TagsScoredStep) -> list[Path]:
    """`confidence` and `label`, where sure enough."""
    return gather_own(gathering, ["confidence", "label"], above=np.nextafter(step.least, -1))


def edit(record: Record, values: dict[str, Any], step: TagsScoredStep) -> Record:
    """The record with the label in `meta.tags`, unless a rule or a column has said it."""
    if step.tag in record.meta.get("tags", {}):
        return record
    return _tagged(record, {step.tag: _tag(values["label"], round(values["confidence"], 3), "classifier")})


def _said(record: Record, step: TagsStep) -> dict[Tag, dict[str, Any]]:
    best: dict[Tag, dict[str, float]] = {}
    for message in messages_of(record):
        if message["role"] == "user" and len(message["content"]) <= _LONGEST:
            for tag, value, confidence in sayings(message["content"]):
                values = best.setdefault(tag, {})
                values[value] = max(confidence, values.get(value, 0))
    return {
        tag: made
        for tag in TAGS
        if tag in step.find and (made := _likeliest(best.get(tag, {}), step.least)) is not None
    }


def _likeliest(values: dict[str, float], least: float) -> dict[str, Any] | None:
    first, *others = sorted(values.items(), key=lambda item: -item[1]) or [("", 0.0)]
    if first[1] < least or (others and first[1] - others[0][1] < _CLOSE):
        return None
    return _tag(first[0], first[1], "rule")


def _carried(record: Record, step: TagsStep, tag: Tag) -> dict[str, Any] | None:
    name = step.columns.get(tag)
    value = column(record.meta, name) if name else None
    return _tag(value, 1.0, "column") if isinstance(value, str | int | float) and value != "" else None


def _tag(value: Any, confidence: float, by: str) -> dict[str, Any]:
    return {"value": str(value), "confidence": confidence, "by": by}


def _tagged(record: Record, found: dict[Tag, dict[str, Any]]) -> Record:
    return replace(record, meta={**record.meta, "tags": {**record.meta.get("tags", {}), **found}}) if found else record


def _users_text(record: Record) -> str:
    users = [message["content"] for message in messages_of(record) if message["role"] == "user"]
    return "\n".join(users) if users else text_of(record)
