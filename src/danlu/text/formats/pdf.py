"""PDF files: the text of the pages, joined to one document."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.text.formats.print_lines import flowing
from danlu.text.pieces import BadAt, Numbered, Piece, Wanted
from danlu.text.problems import BadRow, LeftOut


def rows(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    """The file as one row. Pages without text, as scanned ones are, are told to `bad` as left out by their number."""
    if not Path(piece.file).stat().st_size:
        return
    try:
        import pypdf
    except ImportError:
        raise UserError("pypdf is not installed", where=piece.file, do='pip install "danlu[pdf]"') from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it mends without us, by the line
    with Path(piece.file).open("rb") as handle:
        try:
            reader = pypdf.PdfReader(handle, strict=False)
            # Many files have a password that only keeps them from being changed; for reading it is empty.
            locked = reader.is_encrypted and not reader.decrypt("")
            count = 0 if locked else len(reader.pages)
        except pypdf.errors.DependencyError as error:
            raise BadRow("encrypted", str(error)) from None
        except Exception as error:  # the library's own, and whatever else its parser meets in a damaged file
            raise BadRow("damaged file", f"PDF: {str(error)[:100]}") from None
        if locked:
            raise BadRow("encrypted", "it opens with a password only")
        pages = list(_pages(reader, count, bad, wanted))
        title = _title(reader)
    text = flowing(pages)
    if not text:
        raise BadRow("no text", f"{count} pages, none with text: a scan?")
    yield 1, {"text": text, **({"title": title} if title else {}), "pages": count}


def _pages(reader: Any, count: int, bad: BadAt, wanted: Wanted) -> Iterator[list[str]]:
    """The lines of each page that has any. Raises BadRow once they are too much."""
    size = 0
    for number in range(1, count + 1):
        try:
            text = reader.pages[number - 1].extract_text()
        except Exception as error:  # as above
            bad(BadRow("damaged page", str(error)[:100]), number)
            continue
        size += len(text)
        if size > wanted.longest:
            raise wanted.too_long()
        lines = [line for line in map(_clean, text.split("\n")) if line]
        if lines:
            yield lines
        else:
            bad(LeftOut("page without text, as scanned ones are"), number)


def _clean(line: str) -> str:
    """A line without what is no text: half of a character pair, NUL, blanks around it."""
    return line.encode("utf-8", "ignore").decode("utf-8").replace("\0", "").strip()


def _title(reader: Any) -> str:
    try:
        return _clean(str(reader.metadata.title or "")) if reader.metadata else ""
    except Exception:  # as above; the text is there
        return ""
