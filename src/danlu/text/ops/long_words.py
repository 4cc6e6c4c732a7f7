"""Words that are no words: packed data, keys, addresses."""

from __future__ import annotations

import re
from functools import cache

from danlu.text.ops.code import outside_code
from danlu.text.ops.contents import with_text
from danlu.text.records import Record
from danlu.text.steps.passages import LongWordsStep

# Thai to Burmese, Khmer, and from Chinese on: scripts that put no blanks between words, or are no script.
_NO_WORD = r"\s\u0e00-\u109f\u1780-\u17ff\u2e80-\U0010ffff"


def long_words(record: Record, step: LongWordsStep) -> Record:
    """The record without words that are too long."""
    pattern = _pattern(step.longest)
    return with_text(record, lambda text: outside_code(text, lambda piece: pattern.sub(_without, piece)))


@cache
def _pattern(longest: int) -> re.Pattern[str]:
    return re.compile(rf"[ \t]?(?P<word>[^{_NO_WORD}]{{{longest + 1},}})")


def _without(found: re.Match[str]) -> str:
    """Nothing for a word; rules such as ------ stay."""
    return "" if any(map(str.isalnum, found["word"])) else found[0]
