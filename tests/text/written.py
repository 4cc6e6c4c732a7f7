"""Small files of many formats, written by other means than those that read them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from danlu.text.pieces import Piece
from danlu.text.problems import BadRow, LeftOut
from danlu.text.readers import Row, Wanted, read_piece

Said = list[tuple[str, str]]


def read(path: Path, wanted: Wanted | None = None) -> tuple[list[Row], Said]:
    """Rows, and what was said of the rest: "bad" or "left out" with the reason."""
    said: Said = []

    def note(problem: BadRow, where: str) -> None:
        said.append(("left out" if isinstance(problem, LeftOut) else "bad", problem.reason))

    return list(read_piece(Piece(str(path)), note, wanted or Wanted())), said


def epub(chapters: Sequence[str], title: str = "书", extra: dict[str, bytes] | None = None) -> bytes:
    """A book; each chapter is what stands in the body of its file."""
    names = [f"text/第{number} 章.xhtml" for number in range(len(chapters))]
    quoted = [f"text/%E7%AC%AC{number}%20%E7%AB%A0.xhtml" for number in range(len(chapters))]
    items = "".join(f'<item id="c{i}" href="{name}"/>' for i, name in enumerate(quoted))
    spine = "".join(f'<itemref idref="c{i}"/>' for i in range(len(chapters)))
    files: dict[str, bytes] = {
        "mimetype": b"application/epub+zip",
        "META-INF/container.xml": b'<?xml version="1.0"?><container><rootfiles>'
        b'<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        "OEBPS/book.opf": (
            f'<?xml version="1.0" encoding="utf-8"?><package><metadata><dc:title>{title}</dc:title><dc:creator>曹雪芹'
            f'</dc:creator></metadata><manifest><item id="nav" href="nav.xhtml" properties="nav"/>{items}</manifest>'
            f'<spine><itemref idref="nav"/>{spine}</spine></package>'
        ).encode(),
        "OEBPS/nav.xhtml": b"<html><body>CONTENTS</body></html>",
    }
    for name, chapter in zip(names, chapters, strict=True):
        files[f"OEBPS/{name}"] = (
            f'<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>'
            f"<body>{chapter}</body></html>"
        ).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, **(extra or {})}.items():
            archive.writestr(name, content)
    return out.getvalue()


def pdf(pages: Iterable[Sequence[str]]) -> bytes:
    """A page for each list of lines, in a font of Chinese that names no other encoding than its own."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"",
        b"<</Type/Font/Subtype/Type0/BaseFont/STSong-Light/Encoding/UniGB-UCS2-H/DescendantFonts[4 0 R]>>",
        b"<</Type/Font/Subtype/CIDFontType0/BaseFont/STSong-Light/DW 1000"
        b"/CIDSystemInfo<</Registry(Adobe)/Ordering(GB1)/Supplement 4>>>>",
    ]
    kids = []
    for lines in pages:
        shown = b"".join(b"<%s> Tj T* " % line.encode("utf-16-be").hex().encode() for line in lines)
        stream = b"BT /F 10 Tf 14 TL 50 800 Td " + shown + b"ET"
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 850]/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>"
            % len(objects)
        )
        kids.append(len(objects))
    objects[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(b"%d 0 R" % kid for kid in kids))
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(out))
    return bytes(out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + end)


def warc_record(kind: str, url: str, content: bytes, length: int | None = None) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
    media = "text/plain" if kind == "conversion" else f"application/http; msgtype={kind}"
    size = len(content) if length is None else length
    return f"{head}Content-Type: {media}\r\nContent-Length: {size}\r\n\r\n".encode() + content + b"\r\n\r\n"


def response(body: bytes, headers: str = "Content-Type: text/html; charset=utf-8", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body
