"""Pages out of WARC archives, and the plain text of Common Crawl's WET files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.text.formats.page import page
from danlu.text.formats.whole import decoded
from danlu.text.pieces import BadAt, Numbered, Piece, Wanted
from danlu.text.problems import BadRow, LeftOut
from danlu.text.streams import byte_chunks

if TYPE_CHECKING:
    from warcio.recordloader import ArcWarcRecord

_HTML = ("text/html", "application/xhtml+xml")
_UNPACKED = ("", "identity", "gzip", "x-gzip", "deflate")  # what the library undoes by itself
_READ = 1 << 16  # bytes


def rows(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    """A row for each response with a page in it, numbered among the responses; `url` and `date` are the crawler's."""
    stream = _Stream(byte_chunks(Path(piece.file)))
    number = 0
    for record in _records(stream):
        if record.rec_type not in ("response", "conversion"):
            continue
        number += 1
        if not wanted.has(number):
            continue
        try:
            yield number, _row(record, wanted)
        except BadRow as problem:
            bad(problem, number)
    if stream.damage:
        raise stream.damage
    if not number and Path(piece.file).stat().st_size:
        raise BadRow("no pages", "an archive without a response in it")


class _Stream:
    """Chunks as a file. Where they break off, it ends, and `damage` says why."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""
        self.damage: BadRow | None = None

    def read(self, size: int) -> bytes:
        try:
            self._rest = self._rest or next(self._chunks, b"")
        except BadRow as damage:
            self.damage = damage
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _records(stream: _Stream) -> Iterator[ArcWarcRecord]:
    from warcio.archiveiterator import ArchiveIterator

    records = iter(ArchiveIterator(stream))
    while True:
        try:
            record = next(records, None)
        except Exception as error:  # the library's own, and whatever else its parser meets in damaged headers
            raise BadRow("damaged archive", f"its rest is lost: {' '.join(str(error).split())[:100]}") from None
        if record is None:
            return
        yield record


def _row(record: ArcWarcRecord, wanted: Wanted) -> dict[str, Any]:
    """What a record says. Raises BadRow where that is nothing, LeftOut where it is no text."""
    http = record.http_headers
    status = http.get_statuscode() if http else "200"
    if status != "200":
        raise LeftOut("response other than 200", status)
    declared = (http or record.rec_headers).get_header("Content-Type") or ""
    kind, _, parameters = declared.lower().partition(";")
    plain = record.rec_type == "conversion" and kind.strip() == "text/plain"
    if kind.strip() not in _HTML and not plain:
        raise LeftOut("response that is no page", kind)
    packed = ((http and http.get_header("Content-Encoding")) or "").strip().lower()
    if packed not in _UNPACKED:
        raise LeftOut(f"response packed by {packed[:20]}")
    text = decoded(_content(record, wanted), parameters.partition("charset=")[2].strip(" \"'"))
    found = {"text": text} if plain else page(text)._asdict()
    if not found["text"].strip():
        raise BadRow("no text", "a page without text of its own")
    names = record.rec_headers.get_header
    return {**found, "url": names("WARC-Target-URI"), "date": names("WARC-Date")}


def _content(record: ArcWarcRecord, wanted: Wanted) -> bytes:
    parts, size = [], 0
    try:
        stream = record.content_stream()
        while part := stream.read(_READ):
            parts.append(part)
            size += len(part)
            if size > wanted.longest:
                raise wanted.too_long()
    except BadRow:
        raise
    except Exception as error:  # as above
        raise BadRow("damaged record", str(error)[:100]) from None
    if getattr(record.raw_stream, "limit", 0) > 0:
        raise BadRow("cut-off record", f"{record.raw_stream.limit} bytes are missing")
    return b"".join(parts)
