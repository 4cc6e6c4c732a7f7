"""Full-width letters and digits in half width."""

from __future__ import annotations

from danlu.text.ops.contents import with_text
from danlu.text.records import Record
from danlu.text.steps.markup import WidthStep

_WIDER = 0xFEE0  # from "!" to "！"
_ALL = {code + _WIDER: chr(code) for code in range(0x21, 0x7F)} | {0x3000: " "}
_LETTERS_AND_DIGITS = {code: narrow for code, narrow in _ALL.items() if narrow.isalnum()}


def width(record: Record, step: WidthStep) -> Record:
    """The record with its texts in half width."""
    table = _ALL if step.punctuation else _LETTERS_AND_DIGITS
    return with_text(record, lambda text: text if text.isascii() else text.translate(table))
