"""EPUB books: the text of the chapters in their order, as one document."""

from __future__ import annotations

import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from danlu.text.formats.page import as_html, check_nesting
from danlu.text.formats.whole import decoded
from danlu.text.ops.page import page_text
from danlu.text.pieces import BadAt, Numbered, Piece, Wanted
from danlu.text.problems import BadRow

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

_DIRECTORY = 1 << 24  # bytes of an archive's directory; that of a book has some thousand
_END = struct.Struct("<4s4H2LH")  # of a zip archive: sign, disks and counts, directory's size and place, comment
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
"""What zipfile meets in a damaged archive."""


class _Book(NamedTuple):
    chapters: list[str]
    """Names in the archive."""
    fields: dict[str, str]


def rows(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    """The book as one row; of its chapters those that cannot be read are told to `bad` by their number.

    Nothing is unpacked but in memory, one member of at most `wanted.longest` bytes at a time. XML is read by an HTML
    parser, which knows neither entities of its own making nor files outside.
    """
    if not Path(piece.file).stat().st_size:
        return
    _check_directory(Path(piece.file))
    try:
        with zipfile.ZipFile(piece.file) as archive:
            book = _book(archive, wanted)
            locked = _locked(archive, wanted)
            texts: list[str] = []
            for number, chapter in enumerate(book.chapters, 1):
                try:
                    if chapter in locked:
                        raise BadRow("encrypted chapter", chapter)
                    texts.append(page_text(_source(archive, chapter, wanted)))
                except BadRow as problem:
                    bad(problem, number)
                if sum(map(len, texts)) > wanted.longest:
                    raise wanted.too_long()
    except _DAMAGE as error:
        raise BadRow("damaged file", f"zip: {error}") from None
    text = "\n\n".join(filter(None, texts))
    if not text:
        raise BadRow("no text", f"{len(book.chapters)} chapters, none with text")
    yield 1, {"text": text, **book.fields}


def _check_directory(path: Path) -> None:
    """Raises BadRow for an archive whose directory alone would fill the memory."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - _END.size - 0xFFFF))
        tail = handle.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise BadRow("damaged file", "zip: it has no end")
    if _END.unpack_from(tail, at)[5] > _DIRECTORY:
        raise BadRow("damaged file", "zip: its directory is larger than that of any book")


def _member(archive: zipfile.ZipFile, name: str, wanted: Wanted) -> bytes:
    """A file of the archive. Raises BadRow where it is not there, damaged or too long, whatever its header says."""
    try:
        with archive.open(name) as handle:
            content = handle.read(wanted.longest + 1)
    except KeyError:
        raise BadRow("missing chapter", name) from None
    except _DAMAGE as error:
        raise BadRow("damaged chapter", f"{name}: {error}") from None
    if len(content) > wanted.longest:
        raise wanted.too_long("chapter")
    return content


def _markup(archive: zipfile.ZipFile, name: str, wanted: Wanted) -> LexborHTMLParser:
    from selectolax.lexbor import LexborHTMLParser

    return LexborHTMLParser(_source(archive, name, wanted))


def _source(archive: zipfile.ZipFile, name: str, wanted: Wanted) -> str:
    """XML of the archive as the HTML parser takes it."""
    source = as_html(decoded(_member(archive, name, wanted)))
    check_nesting(source)
    return source


def _book(archive: zipfile.ZipFile, wanted: Wanted) -> _Book:
    container = _markup(archive, "META-INF/container.xml", wanted)
    package_name = next(_values(container, "rootfile", "full-path"), "")
    package = _markup(archive, package_name, wanted)
    folder = posixpath.dirname(package_name)
    files = {}
    for item in _named(package, "item"):
        names = item.attributes
        if "nav" not in (names.get("properties") or "").split():
            files[names.get("id")] = posixpath.normpath(posixpath.join(folder, unquote(names.get("href") or "")))
    spine = [node.attributes for node in _named(package, "itemref")]
    order = [names.get("idref") for names in spine if names.get("linear") != "no"]
    chapters = [files[name] for name in dict.fromkeys(order) if name in files]
    if not chapters:
        raise BadRow("damaged file", "a book without a list of chapters")
    said = {name: package.css_first(rf"dc\:{tag}") for name, tag in (("title", "title"), ("author", "creator"))}
    return _Book(chapters, {name: node.text().strip() for name, node in said.items() if node})


def _locked(archive: zipfile.ZipFile, wanted: Wanted) -> set[str]:
    """Files that need a key. Fonts are among them in books that are otherwise open."""
    if "META-INF/encryption.xml" not in archive.namelist():
        return set()
    listed = _markup(archive, "META-INF/encryption.xml", wanted)
    return {
        unquote(name) for tag in ("cipherreference", r"enc\:cipherreference") for name in _values(listed, tag, "uri")
    }


def _named(markup: LexborHTMLParser, tag: str) -> Iterator[LexborNode]:
    yield from markup.css(tag) or markup.css(rf"opf\:{tag}")


def _values(markup: LexborHTMLParser, tag: str, attribute: str) -> Iterator[str]:
    return (value for node in markup.css(tag) if (value := node.attributes.get(attribute)))
