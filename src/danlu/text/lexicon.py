"""How lists of words stand in code."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of a text with white space between them."""
    return tuple(text.split())
