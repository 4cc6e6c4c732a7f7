"""Addresses of the web out of text, and Markdown's links to their texts."""

from __future__ import annotations

import re

from danlu.text.ops.code import outside_code, settled
from danlu.text.ops.contents import with_text
from danlu.text.records import Record
from danlu.text.steps.markup import LinksStep

# An address ends before white space, quotes, brackets, and before Chinese: 见https://a.cn/b。谢谢
_INSIDE = r"[^\s<>\"'`()\[\]{}|\\^\u2018-\u201f\u2e80-\U0010ffff]"
_LAST = r"[^\s<>\"'`()\[\]{}|\\^\u2018-\u201f\u2e80-\U0010ffff.,:;!?*_~]"
_ADDRESS = rf"(?:(?:https?|ftp)://|www\.(?=[a-z0-9-]+\.[a-z]))(?:{_INSIDE}|\({_INSIDE}*\))*(?:{_LAST}|\({_INSIDE}*\))"
_BRACKETED = rf"\(\s*{_ADDRESS}\s*\)|（\s*{_ADDRESS}\s*）|<\s*{_ADDRESS}\s*>|【\s*{_ADDRESS}\s*】"
_ALONE = re.compile(
    rf"^[ \t>]*(?:[-*+•]|\d+[.)、])?[ \t]*(?:{_BRACKETED}|{_ADDRESS})[ \t]*(?:\n|\Z)", re.MULTILINE | re.IGNORECASE
)
_URL = re.compile(rf"(?P<blank>[ \t]?)(?:{_BRACKETED}|(?<![A-Za-z0-9_]){_ADDRESS})", re.IGNORECASE)

_TEXT = r"\[(?P<text>(?:[^\[\]\n]|\\[\[\]]|\[[^\[\]\n]*\]){0,500})\]"
_TARGET = r"""\(\s*(?:<[^<>\n]*>|[^\s()<>]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)"""
_IMAGE = re.compile(rf"!{_TEXT}{_TARGET}")
_LINK = re.compile(rf"(?<![A-Za-z0-9_\]\\!]){_TEXT}{_TARGET}")  # not a[0](x)
_TITLE = r"""(?:"[^"\n]*"|'[^'\n]*'|\([^()\n]*\))"""
_DEFINITION = re.compile(
    rf"^ {{0,3}}\[(?P<name>[^\[\]\n^]+)\]:[ \t]+(?:<[^<>\n]*>|\S+)(?:[ \t]+{_TITLE})?[ \t]*(?:\n|\Z)", re.MULTILINE
)
_REFERENCE = re.compile(r"!?\[(?P<text>[^\[\]\n]+)\](?:[ ]?\[(?P<name>[^\[\]\n]*)\])?")


def links(record: Record, step: LinksStep) -> Record:
    """The record without addresses in its texts."""
    return with_text(record, lambda text: unlinked(text, step.replacement))


def unlinked(text: str, replacement: str = "") -> str:
    """The text without addresses outside code, `replacement` in their places; of Markdown links and images the text."""
    if "](" not in text and "]:" not in text and "://" not in text and "www." not in text.lower():
        return text
    return settled(text, lambda found: _once(found, replacement))


def _once(text: str, replacement: str) -> str:
    names: set[str] = set()
    if "]:" in text:
        outside_code(text, lambda piece: _note(piece, names))
    return outside_code(text, lambda piece: _piece(piece, names, replacement))


def _note(piece: str, names: set[str]) -> str:
    names |= {_key(found["name"]) for found in _DEFINITION.finditer(piece)}
    return piece


def _piece(text: str, names: set[str], replacement: str) -> str:
    if "](" in text:
        text = _LINK.sub(r"\g<text>", _IMAGE.sub(r"\g<text>", text))
    if names:
        text = _DEFINITION.sub("", text)
        text = _REFERENCE.sub(lambda found: _referring(found, names), text)
    if replacement:
        return _URL.sub(lambda url: url["blank"] + replacement, text)
    return _URL.sub("", _ALONE.sub("", text))  # a line with nothing else goes with its bullet


def _referring(found: re.Match[str], names: set[str]) -> str:
    name = found["name"] or found["text"]
    return found["text"] if _key(name) in names else found[0]


def _key(name: str) -> str:
    return " ".join(name.lower().split())
