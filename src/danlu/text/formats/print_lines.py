"""Printed lines made running text: page numbers and running heads off, words and paragraphs joined again."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from unicodedata import east_asian_width

_NUMBER = re.compile(
    r"[-–—·•|\s]*(?:page|p\.|第)?\s*(?:\d{1,4}|[ivx]{1,6})\s*[页頁]?(?:\s*(?:/|of|，?\s*共)\s*\d{1,4}\s*[页頁]?)?[-–—·•|\s]*",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")
_ENDS = tuple(".!?:;。！？：；…”’」』）")
_ITEM = re.compile(r"[•·▪◦*–—-]\s|\(?\d{1,3}[.)、）]\s?|（[\d一二三四五六七八九十]+）|[一二三四五六七八九十]+、")
_LEADER = re.compile(r"(?:[.·…] ?){4}\s*\d+$")  # a line of a table of contents
_HYPHEN = re.compile(r"([A-Za-zÀ-ÿ]+)[-\u00ad\u2010]$")
_WORD = re.compile(r"[A-Za-zÀ-ÿ]+(?:-[A-Za-zÀ-ÿ]+)*")
_LOWER = re.compile(r"[a-zß-ÿ]+")
HEAD_PAGES = 3  # a running head stands on so many pages at least,
HEAD_SHARE = 0.4  # and on this share of them: left and right pages have their own
LEAST_WIDTH = 30  # columns of running text, in which a Chinese character takes two; slides have less
FULL, FULL_AT_END = 0.7, 0.95
"""Of the usual width: from there on a line goes on in the next, from there on even after the end of a sentence."""


def flowing(pages: list[list[str]]) -> str:
    """Paragraphs from the lines of pages. Words cut at a line's end are joined as the rest of the text writes them."""
    lines = [line for page in _without_heads(pages) for line in page]
    if not lines:
        return ""
    known = {word.lower() for line in lines for word in _WORD.findall(line)}
    widths = sorted(map(_width, lines))
    usual = max(LEAST_WIDTH, widths[len(widths) * 4 // 5])
    made = [lines[0]]
    for line, after in pairwise(lines):
        if not _goes_on(line, after, usual):
            made.append(after)
        elif (cut := _HYPHEN.search(made[-1])) and (rest := _LOWER.match(after)):
            joined = (cut[1] + rest[0]).lower()
            hyphen = "-" if f"{cut[1]}-{rest[0]}".lower() in known and joined not in known else ""
            made[-1] = made[-1][: cut.end(1)] + hyphen + after
        else:
            made[-1] += ("" if _is_wide(line[-1]) or _is_wide(after[0]) else " ") + after
    return "\n".join(made)


def _goes_on(line: str, after: str, usual: int) -> bool:
    if _ITEM.match(after) or _LEADER.search(line):
        return False
    return _width(line) >= usual * (FULL_AT_END if line.endswith(_ENDS) else FULL)


def _without_heads(pages: list[list[str]]) -> list[list[str]]:
    """The pages without their numbers and without the first and last lines that most of them share."""
    pages = [_without_numbers(page) for page in pages]
    ends = Counter(end for page in pages for end in {_head(line) for line in (*page[:1], *page[-1:])})
    least = max(HEAD_PAGES, HEAD_SHARE * len(pages))
    heads = {end for end, count in ends.items() if count >= least}
    return [
        [line for place, line in enumerate(page) if place not in (0, len(page) - 1) or _head(line) not in heads]
        for page in pages
    ]


def _without_numbers(page: list[str]) -> list[str]:
    first = 1 if page and _NUMBER.fullmatch(page[0]) else 0
    last = len(page) - 1 if len(page) > first and _NUMBER.fullmatch(page[-1]) else len(page)
    return page[first:last]


def _head(line: str) -> str:
    return _DIGITS.sub("#", line)


def _width(line: str) -> int:
    return sum(1 + _is_wide(character) for character in line)


def _is_wide(character: str) -> bool:
    return east_asian_width(character) in "WF"
