"""Shares of kinds of characters among all characters of a record."""

from __future__ import annotations

from danlu.text.kernels import Class, codes_of
from danlu.text.ops.operator import Column
from danlu.text.records import Record
from danlu.text.steps.statistics import CharactersStep

_HAN = (Class.HAN, Class.FUNCTION)
_ALPHANUMERIC = (Class.LETTER, Class.DIGIT, Class.NUMBER, Class.KANA, *_HAN)
_PUNCTUATION = (Class.APOSTROPHE, Class.FULL_STOP, Class.END, Class.PUNCTUATION)


def measure(records: list[Record], step: CharactersStep) -> dict[str, Column]:
    """Shares of the characters, 0 in an empty record. Categories are Unicode's: punctuation P, symbols S."""
    codes = codes_of(records)
    return {
        "alphanumeric": codes.shares(*_ALPHANUMERIC),
        "punctuation": codes.shares(*_PUNCTUATION),
        "symbols": codes.shares(Class.SYMBOL),
        "digits": codes.shares(Class.DIGIT),
        "special": codes.shares(*_PUNCTUATION, Class.SYMBOL, Class.OTHER),
        "han": codes.shares(*_HAN),
    }
