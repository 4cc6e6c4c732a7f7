"""What a reader sees of an HTML page, without its scripts, styles, forms and navigation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from danlu.text.ops.html_tags import BLOCKS, TAG

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_SILENT_TAGS = """
head script style noscript template nav aside footer form button select textarea iframe svg canvas object embed audio
video
"""
_SILENT = frozenset(_SILENT_TAGS.split())
_CELLS = frozenset(("td", "th"))
_LINES = frozenset(("br", "dd", "dt", "li", "tr"))
_WHOLE = frozenset(("pre", "code", "-text"))
_BLANKS = re.compile(r"[ \t\n\r\f]+")
_LINE_ENDS = re.compile(r" *\n[ \n]*")
_FIRST_BAR = re.compile(r"^ ?\| ", re.MULTILINE)


def page_text(source: str) -> str:
    """The text of a page: a blank line between paragraphs, bars between cells of tables, code as in Markdown."""
    from selectolax.lexbor import LexborHTMLParser

    root = LexborHTMLParser(source).root
    return node_text(root) if root is not None else ""


def node_text(root: LexborNode) -> str:
    """The text of a part of a page."""
    return "\n\n".join(filter(None, _pieces(root)))


def _pieces(root: LexborNode) -> Iterator[str]:
    """Running text and blocks of code in turns."""
    run: list[str] = []
    for node, opens in _walk(root):
        tag = node.tag or ""
        if tag == "-text":
            text = _BLANKS.sub(" ", node.text_content or "")
            run.append(TAG.sub(r"`\g<0>`", text))  # what the page shows as a tag shall not be taken for one
        elif tag == "pre":
            yield _tidy(run)
            run = []
            yield _fenced(node.text())
        elif tag == "code":
            code = _BLANKS.sub(" ", node.text())
            run.append(code if "`" in code or not code.strip() else f"`{code}`")
        elif tag in _CELLS:
            run.append(" | " if opens else "")
        elif tag in _LINES:
            run.append("\n" if opens else "")
        elif tag in BLOCKS:
            run.append("\n\n")
    yield _tidy(run)


def _walk(root: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Every node that is seen, with True where it opens and False where it closes; text and code once."""
    waiting = [(root, True)]
    while waiting:
        node, opens = waiting.pop()
        yield node, opens
        if opens and node.tag not in _WHOLE:
            waiting.append((node, False))
            children = [child for child in node.iter(include_text=True) if child.tag not in _SILENT]
            waiting += [(child, True) for child in reversed(children)]


def _tidy(run: list[str]) -> str:
    text = _LINE_ENDS.sub(lambda ends: "\n\n" if ends[0].count("\n") > 1 else "\n", "".join(run))
    return _FIRST_BAR.sub("", text.strip("\n ")).strip()


def _fenced(code: str) -> str:
    fence = "~~~" if "```" in code else "```"
    code = code.strip("\n")
    return f"{fence}\n{code}\n{fence}" if code.strip() else ""
