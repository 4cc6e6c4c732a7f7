"""Traditional Chinese in simplified characters, by OpenCC's tables of words."""

from __future__ import annotations

from functools import cache
from typing import Any

from danlu.text.ops.code import settled
from danlu.text.ops.contents import with_text
from danlu.text.records import Record
from danlu.text.steps.markup import SimplifiedStep


def simplified(record: Record, step: SimplifiedStep) -> Record:
    """The record with its texts in simplified characters."""
    return with_text(record, in_simplified)


def in_simplified(text: str) -> str:
    """The text in simplified characters."""
    return text if text.isascii() else settled(text, _converter().convert)


@cache
def _converter() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")
