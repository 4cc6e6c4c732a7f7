"""HTML pages: the title, and the text of the main part without menus, related links and the like."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from danlu.text.formats.whole import decoded, whole
from danlu.text.ops.page import node_text
from danlu.text.pieces import BadAt, Numbered, Piece, Wanted
from danlu.text.problems import BadRow

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_UNSEEN = (
    "script, style, noscript, template, svg, iframe, nav, aside, footer, form, button, select, textarea, object, "
    "canvas, dialog, [hidden], [aria-hidden=true], [style*='display:none'], [style*='display: none'], "
    "[role=navigation], [role=banner], [role=contentinfo], [role=search], [role=complementary], [role=dialog], "
    "[role=menu], [role=alert]"
)
_MAIN = ("article, [itemprop=articleBody]", "main, [role=main]")
_BESIDE = re.compile(
    r"(?:^|[-_ ])(?:nav|navbar|navigation|menu|sidebar|side|footer|foot|breadcrumbs?|crumbs?|shar(?:e|ing)|social|"
    r"comments?|disqus|related|recommend\w*|more|cookies?|consent|ads?|advert\w*|promo\w*|sponsor\w*|subscri\w*|"
    r"newsletter|login|signup|pagination|pager|toolbar|tags?|copyright|popup|modal|banner|outbrain|taboola|hot|rank\w*)"
    r"(?=$|[-_ ])",
    re.IGNORECASE,
)
_COLUMNS = frozenset(("div", "section", "ul", "ol", "dl", "table"))
_BLOCKS = _COLUMNS | {"tr", "p", "li", "h2", "h3", "h4"}
_HEADINGS = {"h2", "h3", "h4"}
_ALONE = {"li", *_HEADINGS}  # one link is all that such a block of a menu has
_PERMALINKS = {"¶", "§", "#", "🔗", "⚓"}  # the link to itself behind a heading of documentation
_EMPTY = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)([a-zA-Z][\w:.-]*)(\s[^<>]*)?/>"
)
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")  # paragraphs of nothing but &nbsp; leave them
_OPENED = re.compile(
    r"<(/?)(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr|p|li|td|th|tr|dt|dd|option)\b)[a-z]",
    re.IGNORECASE,
)
MANY_TAGS = 20_000  # with fewer no depth takes the parser longer than seconds; its time grows with the depth's square
MOST_OPEN = 5_000  # elements in one another
DEEPEST = 100  # levels that are looked at for what stands beside the text; the time is this times the page's length
MOST_MAINS = 50  # parts of which each may be the main one; a page of more is a list
LEAST_MAIN = 200  # characters; a shorter <article> is one of a list of teasers
MAIN_SHARE = 0.5  # of the text of all its like: what has less is one of several
BESIDE_SHARE = 0.3  # of the text: what is named like a side column and has more is the main part after all
LINK_SHARE = 0.5  # of a block's text: what has more is a menu


class Page(NamedTuple):
    title: str
    text: str


def rows(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    """The page of a file as one row. Raises BadRow where it has no text."""
    content = whole(piece, wanted)
    if content:
        found = page(decoded(content))
        if not found.text:
            raise BadRow("no text", "a page without text of its own")
        yield 1, {"text": found.text, "title": found.title}


def page(source: str) -> Page:
    """What a page is about. Raises BadRow for one that no browser would show."""
    check_nesting(source)
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(as_html(source) if source.startswith("<?xml") else source)
    named = tree.css_first("title")
    title = " ".join(named.text().split()) if named else ""
    if tree.body is None:
        return Page(title, "")
    # What is inside goes before what is around it, so that no node is looked at whose tree is gone.
    for node in reversed(tree.body.css(_UNSEEN)):
        node.decompose()
    for node in tree.body.css("a[href*='#']"):
        if node.text(strip=True) in _PERMALINKS:
            node.decompose()
    main = _main_part(tree.body)
    total = _size(main)
    for node in _blocks(main, _COLUMNS):
        names = f"{node.attributes.get('class') or ''} {node.attributes.get('id') or ''}"
        if _BESIDE.search(names) and _size(node) < BESIDE_SHARE * total:
            node.decompose()
    for node in _blocks(main, _BLOCKS):
        links = node.css("a:not([href^='#'])" if node.tag in _HEADINGS else "a")  # headings link to themselves
        if len(links) > (node.tag not in _ALONE) and sum(map(_size, links)) > LINK_SHARE * _size(node):
            node.decompose()
    return Page(title, _BLANK_LINES.sub("\n\n", node_text(main)).strip())


def check_nesting(source: str) -> None:
    """Raises BadRow for what would keep the parser busy for hours."""
    if source.count("<") > MANY_TAGS:
        steps = accumulate(-1 if found[1] else 1 for found in _OPENED.finditer(source))
        if any(depth > MOST_OPEN for depth in steps):
            raise BadRow("nested too deep", f"more than {MOST_OPEN:,} elements in one another")


def as_html(xhtml: str) -> str:
    """XHTML as HTML, in which <title/> opens an element that nothing closes."""
    return _EMPTY.sub(r"<\1\2></\1>", xhtml)


def _blocks(root: LexborNode, tags: frozenset[str]) -> list[LexborNode]:
    """Elements below the root, each behind all that are inside it."""
    found, level = [], [root]
    for _ in range(DEEPEST):
        level = [child for node in level for child in node.iter()]
        found += [node for node in level if node.tag in tags]
    return found[::-1]


def _main_part(body: LexborNode) -> LexborNode:
    for selector in _MAIN:
        sizes = [(_size(node), node) for node in body.css(selector)[:MOST_MAINS]]
        if sizes:
            size, node = max(sizes, key=lambda entry: entry[0])
            if size >= max(LEAST_MAIN, MAIN_SHARE * sum(size for size, _ in sizes)):
                return node
    return body


def _size(node: LexborNode) -> int:
    return len(node.text(strip=True))
