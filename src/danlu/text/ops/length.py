"""How many characters a record has."""

from __future__ import annotations

from typing import Any

from danlu.text.ops.contents import characters_of
from danlu.text.records import Record
from danlu.text.steps.basic import LengthStep


def measure(records: list[Record], step: LengthStep) -> dict[str, list[Any]]:
    """`characters`: of a document, or of all messages."""
    return {"characters": [characters_of(record) for record in records]}


def judge(values: dict[str, Any], step: LengthStep) -> tuple[str, Any] | None:
    """Too short or too long, with the number of characters."""
    characters = values["characters"]
    if characters < step.min:
        return "too short", characters
    if step.max is not None and characters > step.max:
        return "too long", characters
    return None
