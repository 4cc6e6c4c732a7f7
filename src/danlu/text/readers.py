"""Rows of data files and of files with text in them, plain or .gz/.zst, in bounded memory."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Set
from datetime import date, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.text import json_stream
from danlu.text.formats import code, epub, latex, page, pdf, warc
from danlu.text.pieces import BadAt, Numbered, Piece, Row, Wanted
from danlu.text.problems import BadRow, OnBad, refuse
from danlu.text.settings import DocumentUnit
from danlu.text.streams import COMPRESSED, Line, byte_chunks, decode, lines

PARQUET_BATCH = 256  # rows
PARQUET_BATCH_BYTES = 1 << 23


EVERYTHING = Wanted()


def read_rows(
    path: Path, on_bad: OnBad = refuse, *, document: DocumentUnit = "file", columns: Set[str] | None = None
) -> Iterator[Row]:
    """The rows of one file, or of all data files under a folder in the order of their names.

    `on_bad` is told of each row that cannot be read, of cut-off and of empty files; by default it ends with a
    UserError. `document` and `columns` are those of `Wanted`.
    """
    from danlu.text.files import data_files

    for file in data_files(path):
        yield from read_piece(Piece(str(file)), on_bad, Wanted(document, columns))


def read_piece(piece: Piece, on_bad: OnBad = refuse, wanted: Wanted = EVERYTHING) -> Iterator[Row]:
    """The rows of a part of a file, as `read_rows` gives them."""
    path = Path(piece.file)
    form = "code" if wanted.tree else file_form(path)
    if form is None:
        raise UserError(f"no reader for {path.suffix or 'a file without an ending'}", where=piece.file, do=_READABLE)
    bad = partial(_report, on_bad, piece.file)
    numbered = _READERS[form](piece, bad, wanted)
    count = 0
    while True:
        try:
            number, fields = next(numbered)
        except StopIteration:
            break
        except BadRow as damage:  # the stream broke: what came before it was read
            bad(damage, piece.first_line + count)
            return
        count += 1
        if not wanted.has(number):
            continue
        try:
            yield Row(_fields(fields), piece.file, number)
        except BadRow as problem:
            bad(problem, number)
    if count == 0 and path.stat().st_size == 0:
        bad(BadRow("empty file"), 1)


def file_form(path: Path) -> str | None:
    """ "jsonl", "parquet", "text", "html" and so on by a file's ending; None for files of another kind."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    form = _FORMS.get(Path(name).suffix)
    return None if form in _PACKED and path.suffix in COMPRESSED else form


def _report(on_bad: OnBad, file: str, bad: BadRow, number: int) -> None:
    on_bad(bad, f"{file}:{number}")


def _lines(piece: Piece, bad: BadAt, wanted: Wanted) -> Iterator[Line]:
    for line in lines(byte_chunks(Path(piece.file), piece.start, piece.stop), piece.first_line, wanted.longest):
        if line.too_long:
            bad(wanted.too_long("line"), line.number)
        elif line.content[:1] == b"\0" and not line.content.strip(b"\0 \t\r"):
            bad(BadRow("only NUL bytes", f"{len(line.content)}, as a crash leaves them"), line.number)
        else:
            yield line


def _jsonl(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    for line in _lines(piece, bad, wanted):
        if not wanted.has(line.number) or not line.content.strip():
            continue
        try:
            yield line.number, json_stream.parse(decode(line.content))
        except BadRow as problem:
            bad(problem if line.ended else BadRow("cut-off last line", str(problem)), line.number)


def _json(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    return json_stream.items(byte_chunks(Path(piece.file)), bad, wanted.longest)


def _csv(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    # The limit is the process's and 128 KB by default, which a document may well pass.
    csv.field_size_limit(wanted.longest)
    text = (line.content.decode("utf-8", "surrogateescape") + "\n" for line in _lines(piece, bad, wanted))
    tabs = ".tsv" in Path(piece.file).suffixes
    reader = csv.reader(text, delimiter="\t" if tabs else ",", strict=True)
    names = next(reader, [])
    if len(set(names)) < len(names):
        raise BadRow("column names that come twice", ", ".join(names[:20]))
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad(BadRow("broken CSV", str(error)), number)
            continue
        if len(cells) == len(names):
            yield number, dict(zip(names, cells, strict=True))
        elif cells:
            bad(BadRow("broken CSV", f"{len(cells)} cells under {len(names)} column names"), number)


def _parquet(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(piece.file, pre_buffer=False, buffer_size=1 << 20)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRow("damaged file", f"parquet: {error}") from None
    with file:
        nested = pyarrow.types.is_nested
        asked = wanted.columns
        names = [c.name for c in file.schema_arrow if asked is None or c.name in asked or not nested(c.type)]
        number = piece.first_line
        for group in range(piece.start, file.num_row_groups if piece.stop is None else piece.stop):
            stored = file.metadata.row_group(group)
            after = number + stored.num_rows
            batch_rows = max(1, PARQUET_BATCH_BYTES * stored.num_rows // max(stored.total_byte_size, 1))
            try:
                for batch in file.iter_batches(min(PARQUET_BATCH, batch_rows), [group], names, use_threads=False):
                    yield from _parquet_rows(batch, number, bad, wanted)
                    number += batch.num_rows
            except (pyarrow.ArrowException, OSError) as error:
                bad(BadRow("damaged row group", f"{after - number} rows lost: {error}"), number)
            number = after


def _parquet_rows(batch: Any, number: int, bad: BadAt, wanted: Wanted) -> Numbered:
    if batch.nbytes <= wanted.longest:
        if wanted.lines is None or any(wanted.has(number + row) for row in range(batch.num_rows)):
            yield from enumerate(batch.to_pylist(), number)
        return
    for row in range(batch.num_rows):
        one = batch.slice(row, 1)
        if one.nbytes > wanted.longest:
            bad(wanted.too_long("row"), number + row)
        else:
            yield number + row, one.to_pylist()[0]


def _text(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    start, parts, size = piece.first_line, [], 0
    for line in _lines(piece, bad, wanted):
        content = line.content.removesuffix(b"\r")
        parts.append(content)
        size += len(content)
        if wanted.document == "line" or (wanted.document == "paragraph" and not content.strip()):
            yield from _document(start, parts, bad)
            start, parts, size = line.number + 1, [], 0
        if size > wanted.longest:
            raise wanted.too_long(advice="; set document: paragraph or line")
    yield from _document(start, parts, bad)


def _document(start: int, parts: list[bytes], bad: BadAt) -> Numbered:
    if not any(part.strip() for part in parts):
        return
    try:
        yield start, {"text": decode(b"\n".join(parts).rstrip(b"\n"))}
    except BadRow as problem:
        bad(problem, start)


def _fields(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRow("not an object", f"a {type(value).__name__}")
    return {str(name): _plain(field) for name, field in value.items()}


def _plain(value: Any) -> Any:
    """The value as JSON has it: NaN and infinities are None, dates are ISO text."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRow("not UTF-8", "bytes or escapes that are no characters") from None
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(field) for name, field in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return decode(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


_FORMS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".warc": "warc",
    ".wet": "warc",
    ".tex": "latex",
    ".epub": "epub",
    ".pdf": "pdf",
}
_PACKED = {"epub", "pdf"}
"""Forms that are compressed in themselves and read from anywhere in the file."""
_READERS = {
    "jsonl": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "csv": _csv,
    "text": _text,
    "html": page.rows,
    "warc": warc.rows,
    "latex": latex.rows,
    "epub": epub.rows,
    "pdf": pdf.rows,
    "code": code.rows,
}
_READABLE = (
    f"give a file that ends in {', '.join(_FORMS)}, plain or with {' or '.join(COMPRESSED)} after it; for a folder of "
    "source code set `format: code`"
)
