"""What in Markdown is about the page: front matter, badges, lines of images, tables of contents."""

from __future__ import annotations

import re

from danlu.text.ops.code import outside_code, settled
from danlu.text.ops.contents import with_text
from danlu.text.records import Record
from danlu.text.steps.markup import MarkdownStep

_LONGEST_FRONT_MATTER = 200  # lines
_KEY = re.compile(r"""[\w"'][\w .\"'/-]*[ \t]*[:=](?:[ \t]|$)""")
_BELOW_A_KEY = re.compile(r"[ \t]|#|-[ \t]|[\[\]{}]|$")

_IN_BRACKETS = r"\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)"
_IMAGE = rf"!\[[^\[\]\n]*\](?:{_IN_BRACKETS}|\[[^\[\]\n]*\])"
_LINKED_IMAGE = rf"\[[ \t]*{_IMAGE}[ \t]*\](?:{_IN_BRACKETS}|\[[^\[\]\n]*\])"
_IMAGES = re.compile(rf"[ \t]?(?:{_LINKED_IMAGE}|{_IMAGE})")
_BADGE = re.compile(r"shields\.io|badgen\.net|badge|travis-ci|circleci|codecov|coveralls|appveyor|/workflows/", re.I)
_IMAGE_LINE = re.compile(rf"^[ \t>]*(?:(?:{_LINKED_IMAGE}|{_IMAGE}|<img\s[^<>\n]*>)[ \t|]*)+(?:\n|\Z)", re.MULTILINE)

_MARK = re.compile(r"^[ \t]*(?:@?\[\[?_?TOC_?\]\]?|\{:[ \t]*toc[ \t]*\})[ \t]*(?:\n|\Z)", re.MULTILINE | re.IGNORECASE)
_LAST_MARK = re.compile(r"<!--\s*(?:END doctoc|tocstop|/toc)", re.IGNORECASE)
_BETWEEN_MARKS = re.compile(rf"<!--\s*(?:START doctoc|toc).*?{_LAST_MARK.pattern}.*?-->\n?", re.S | re.I)
_HEADING = r"(?:^[ \t]*#*[ \t]*(?:目[ \t]*录|内容目录|Table of Contents|Contents|TOC)[ \t]*[:：]?[ \t]*#*\n\s*)?"
_ENTRY_TEXT = r"\[(?:[^\[\]\n]|\[[^\[\]\n]*\])*\]\(#[^\s()]*(?:\([^\s()]*\)[^\s()]*)*\)"
_ENTRY = rf"^[ \t]*(?:[-*+]|\d+[.)])[ \t]+{_ENTRY_TEXT}[ \t]*(?:\n[ \t]*)?(?:\n|\Z)"
_LIST = re.compile(rf"{_HEADING}(?:{_ENTRY}){{3,}}", re.MULTILINE | re.IGNORECASE)


def markdown(record: Record, step: MarkdownStep) -> Record:
    """The record without what the step is told to remove from its texts."""
    return with_text(record, lambda text: without_boilerplate(text, step))


def without_boilerplate(text: str, step: MarkdownStep) -> str:
    """The text without boilerplate; blocks of code stay."""
    return settled(text, lambda found: _once(found, step))


def _once(text: str, step: MarkdownStep) -> str:
    text = _without_front_matter(text) if step.front_matter else text
    return outside_code(text, lambda piece: _piece(piece, step), inline=False)


def _without_front_matter(text: str) -> str:
    """What stands behind YAML between two ---, or TOML between two +++, at the top."""
    if not text.lstrip("\n").startswith(("---", "+++")):
        return text
    mark, *lines = text.lstrip("\n").split("\n", _LONGEST_FRONT_MATTER)
    ends = [place for place, line in enumerate(lines) if line.rstrip() == mark.rstrip()]
    if len(mark.rstrip()) != 3 or not ends:
        return text
    matter = lines[: ends[0]]
    keys = sum(_KEY.match(line) is not None for line in matter)
    fitting = all(_KEY.match(line) or _BELOW_A_KEY.match(line) for line in matter)
    return "\n".join(lines[ends[0] + 1 :]).lstrip("\n") if keys and fitting else text


def _piece(text: str, step: MarkdownStep) -> str:
    if step.contents:
        text = _BETWEEN_MARKS.sub("", text) if _LAST_MARK.search(text) else text
        text = _LIST.sub("", text) if "](#" in text else text
        text = _MARK.sub("", text) if "toc" in text.lower() else text
    if "![" not in text and "<img" not in text:
        return text
    if step.badges:
        text = _IMAGES.sub(lambda image: "" if _BADGE.search(image[0]) else image[0], text)
    return _IMAGE_LINE.sub("", text) if step.images else text
