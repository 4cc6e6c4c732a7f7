"""Copyright and licence notices off the head of source code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from danlu.text.records import Document, Record
from danlu.text.steps.passages import CopyrightStep

_NOTICE = re.compile(
    r"copyright\b.{0,60}?(?:\(c\)|©|\b(?:19|20)\d\d\b)|(?:\(c\)|©)\s*(?:copyright|(?:19|20)\d\d)|copyright©"
    r"|SPDX-License-Identifier|licen[cs]ed (?:to .{1,80} )?under|under the terms of the .{0,80}licen[cs]e"
    r"|all rights reserved|permission is hereby granted|redistribution and use in source"
    r"|版权所有|著作权所有|保留所有权利|许可证发布|许可协议发布",
    re.IGNORECASE | re.DOTALL,
)
_SHEBANG = re.compile(r"(?:#![^\n]*\n)?(?:#[^\n]*coding[:=][^\n]*\n)?")
_COMMENT = re.compile(
    r"[ \t]*(?:/\*.*?\*/|<!--.*?-->|\{-.*?-\}"  # blocks
    r"|(?P<mark>//|#(?!!)|--|;|%)[^\n]*(?:\n[ \t]*(?P=mark)[^\n]*)*"  # lines that begin alike
    r")[ \t]*(?:\n|\Z)",
    re.DOTALL,
)
_BLANK = re.compile(r"(?:[ \t]*\n)*")


def copyright(record: Record, step: CopyrightStep) -> Record:
    """The record without notices at its head; conversations have none."""
    if not isinstance(record, Document):
        return record
    text = without_notice(record.text)
    return record if text is record.text else replace(record, text=text)


def without_notice(text: str) -> str:
    """The text without those of the comments at its head that are notices; itself where there is none."""
    spans = [(start, end) for start, end in _comments(text) if _NOTICE.search(_plain(text[start:end]))]
    if not spans:
        return text
    kept, at = [], 0
    for start, end in spans:
        kept.append(text[at:start])
        at = _blank_end(text, end)
    return "".join([*kept, text[at:]])


def _comments(text: str) -> Iterator[tuple[int, int]]:
    """Where the comments before the first line of code are."""
    shebang = _SHEBANG.match(text)
    at = shebang.end() if shebang else 0
    while found := _COMMENT.match(text, _blank_end(text, at)):
        yield found.span()
        at = found.end()


def _blank_end(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _plain(comment: str) -> str:
    """A comment as running text, without the marks its lines begin with."""
    return re.sub(r"\s*\n[ \t]*(?://+|#+|--+|;+|%+|\*+)?[ \t]*", " ", comment)
