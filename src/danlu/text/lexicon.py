"""Lists of words, as they stand in code and as they are searched for."""

from __future__ import annotations

import re
from collections.abc import Iterable


def words(text: str) -> tuple[str, ...]:
    """The words of a text with white space between them."""
    return tuple(text.split())


def any_of(wanted: Iterable[str]) -> re.Pattern[str]:
    """A pattern of nothing but words: searching skips to their first letters."""
    return re.compile("|".join(sorted(map(re.escape, wanted), key=len, reverse=True)))
