"""Code in Markdown, which steps leave alone, and changes that are repeated until nothing is left to change."""

from __future__ import annotations

import re
from collections.abc import Callable

ROUNDS = 100  # more, only text made for it needs
_FENCED = r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*(?:\n(?:.*?\n)??[ \t]*(?P=fence)[`~]*[ \t]*$|.*\Z)"
_INLINE = r"(?<!`)(?P<tick>`+)(?!`)[^\n]+?(?<!`)(?P=tick)(?!`)"
_FENCES = re.compile(_FENCED, re.MULTILINE | re.DOTALL)
_CODE = re.compile(f"{_FENCED}|{_INLINE}", re.MULTILINE | re.DOTALL)


def outside_code(text: str, change: Callable[[str], str], inline: bool = True) -> str:
    """The text with `change` made between fenced blocks of code, and with `inline` between `code` in lines too."""
    return outside(_CODE if inline else _FENCES, text, change) if "`" in text or "~~~" in text else change(text)


def outside(pattern: re.Pattern[str], text: str, change: Callable[[str], str]) -> str:
    """The text with `change` made to what stands between matches."""
    pieces, at = [], 0
    for found in pattern.finditer(text):
        pieces += [change(text[at : found.start()]), found[0]]
        at = found.end()
    return "".join([*pieces, change(text[at:])])


def settled(text: str, change: Callable[[str], str]) -> str:
    """The text changed until nothing changes: what is taken out may leave between its sides what is to be taken out."""
    for _ in range(ROUNDS):
        changed = change(text)
        if changed == text:
            break
        text = changed
    return text
