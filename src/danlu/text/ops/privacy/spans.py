"""What finding gives, and what all finders share."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable
from typing import NamedTuple

from danlu.text.steps.privacy import Datum


class Span(NamedTuple):
    """A piece of text that is personal; `key` is its value without its layout, the same wherever it is the same."""

    start: int
    end: int
    datum: Datum
    key: str


# One character for one, so that places in the narrowed text are places in the text.
_WIDE_DIGITS = "０１２３４５６７８９＠"
_WIDE = tuple(
    zip(_WIDE_DIGITS + "＋－（）．：　\u00a0\u2007\u202f‐‑‒–—−Ｘｘ", "0123456789@" + "+-().:    ------Xx", strict=True)
)
_DIGITS = bytes(ord("0") if chr(byte) in "0123456789" else byte for byte in range(256))


def narrow(text: str) -> str:
    """The text with full-width digits, dashes and brackets as ASCII, each in its place."""
    if not text.isascii():
        for wide, plain in _WIDE:  # several times as fast as translate: most of them are in no text
            text = text.replace(wide, plain)
    return text


def has_wide_digits(text: str) -> bool:
    return not text.isascii() and any(wide in text for wide in _WIDE_DIGITS)


def shape(text: str) -> bytes:
    """The text in UTF-8 with every digit as 0: form can be searched for at the speed of memory."""
    return text.encode("utf-8", "surrogatepass").translate(_DIGITS)


def before(text: str, at: int, length: int = 16) -> str:
    return text[max(0, at - length) : at]


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """In order of place; of two that overlap the one that was found first stays."""
    taken: list[Span] = []
    for span in spans:
        at = bisect(taken, span)
        if (at == 0 or taken[at - 1].end <= span.start) and (at == len(taken) or span.end <= taken[at].start):
            taken.insert(at, span)
    return taken


def alone(text: str, start: int, end: int, cue: re.Pattern[str] | None = None) -> bool:
    """Whether no larger number or name goes on before or behind; what stands in a path or is given to a name needs
    a word for what it is before it."""
    left, right = text[start - 1 : start] if start else "", text[end : end + 1]
    if left.isdecimal() or right.isdecimal() or is_ascii_letter(right) or right == "_":
        return False
    if left in (".", ",", "-", "·", ":", "/") and text[start - 2 : start - 1].isdecimal() and left != ",":
        return False
    if right in (".", "-", "/", ":") and text[end + 1 : end + 2].isdecimal():
        return False
    if is_ascii_letter(left) or (left and left in "_.-/#%&=$¥￥€£*\\@+"):
        return cue is not None and bool(cue.search(before(text, start, 24)))
    return True


def is_ascii_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


def digits_of(text: str) -> str:
    return "".join(filter(str.isdecimal, text))
