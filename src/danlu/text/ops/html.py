"""HTML taken out of text: of pages by a parser, of other text tag by tag."""

from __future__ import annotations

import html as entities
import re

from danlu.text.ops.code import outside, outside_code, settled
from danlu.text.ops.contents import with_text
from danlu.text.ops.html_tags import BLOCKS, TAG
from danlu.text.ops.page import page_text
from danlu.text.records import Record
from danlu.text.steps.markup import HtmlStep

_PAGE = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*|<!--(?>.*?-->)\s*)*+<(?:!doctype\s+html|html|head|body)\b[^<]*>", re.IGNORECASE | re.DOTALL
)
_SILENT = re.compile(r"<(!--|(?:script|style|noscript|template|svg|iframe|nav)\b[^<>]*>)", re.IGNORECASE)
_QUOTED = re.compile(r"""(["'])<[a-zA-Z!/][^\n]{0,500}?>\1""")  # a string in code
_MANY_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_ESCAPED_TAG = re.compile(r"&lt;(?=/?[a-z])((?:(?!&[lg]t;)[^<>\n`]){1,200}?)&gt;", re.IGNORECASE)
_ENTITY = re.compile(
    r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|nbsp|ensp|emsp|thinsp|lt|gt|amp|quot|apos|copy|reg|trade|hellip|mdash|ndash|"
    r"[lr]dquo|[lr]squo|[lr]aquo|bull|middot|times|divide|deg|plusmn|para|sect|yen|euro|pound|cent|[lrud]arr|zwn?j);"
)
_NOT_CLOSED = {"br", "hr", "wbr"}


def html(record: Record, step: HtmlStep) -> Record:
    """The record without HTML in its texts."""
    return with_text(record, plain_text)


def plain_text(text: str) -> str:
    """The text without HTML; one that has none comes back as it is."""
    return settled(text, _without_html) if "<" in text or "&" in text else text


def _without_html(text: str) -> str:
    if _PAGE.match(text):
        return page_text(text)
    text = outside_code(text, _without_silent)
    pairs = _pairs(text) if "<" in text else set()
    return outside_code(text, lambda piece: outside(_QUOTED, piece, lambda rest: _without_tags(rest, pairs)))


def _pairs(text: str) -> set[str]:
    """Names of tags that open and close somewhere outside code."""
    opened: set[str] = set()
    closed: set[str] = set()

    def note(piece: str) -> str:
        for tag in TAG.finditer(piece):
            (closed if tag["slash"] else opened).add(tag["name"].lower())
        return piece

    outside_code(text, lambda piece: outside(_QUOTED, piece, note))
    return opened & closed


def _without_tags(text: str, pairs: set[str]) -> str:
    if "<" in text:
        bare = TAG.sub(lambda tag: _instead(tag, pairs), text)
        text = text if bare == text else _MANY_BLANK_LINES.sub("\n\n", bare)
    if "&" in text:
        text = _ESCAPED_TAG.sub(r"`<\1>`", text)
        text = _ENTITY.sub(lambda entity: entities.unescape(entity[0]), text)
    return text


def _without_silent(text: str) -> str:
    """The text without comments, and without elements whose content no reader sees, where they are closed."""
    pieces, at, never_closed = [], 0, set()
    for opening in _SILENT.finditer(text):
        end = "-->" if opening[1] == "!--" else f"</{re.split(r'[^a-z]', opening[1].lower())[0]}"
        if opening.start() < at or end in never_closed:
            continue
        closing = re.compile(rf"{end}(?:\s*>)?", re.IGNORECASE).search(text, opening.end())
        if closing is None:
            never_closed.add(end)
            continue
        pieces += [text[at : opening.start()], "" if end == "-->" else "\n"]
        at = closing.end()
    return "".join([*pieces, text[at:]])


def _instead(tag: re.Match[str], pairs: set[str]) -> str:
    """What stands where a tag stood: a line end, nothing, or what looked like a tag."""
    name = tag["name"].lower()
    if not (tag["attributes"] or name in pairs or name in _NOT_CLOSED):
        return tag[0]
    begins_line = tag.start() == 0 or tag.string[tag.start() - 1] == "\n"
    return "\n" if name in BLOCKS and not begins_line else ""
