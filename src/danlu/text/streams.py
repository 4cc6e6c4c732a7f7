"""Bytes and lines of plain, .gz and .zst files, in memory that does not depend on the file's size."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from danlu.text.problems import BadRow

CHUNK = 1 << 16  # bytes
MAX_ROW = 1 << 28  # bytes; what is longer is no row but a file in another form
COMPRESSED = (".gz", ".zst")
BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    number: int  # from 1
    content: bytes  # without its \n; empty where the line was too long
    ended: bool  # False for a last line without a line end
    too_long: bool = False


def byte_chunks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The unpacked bytes of a file; of a plain file those in [start, stop).

    Raises BadRow where the file is cut off or damaged, after all that can be read.
    """
    if path.suffix == ".zst":
        yield from _zst_chunks(path)
    elif path.suffix == ".gz":
        yield from _gz_chunks(path)
    else:
        with path.open("rb") as handle:
            handle.seek(start)
            while chunk := handle.read(CHUNK if stop is None else min(CHUNK, stop - handle.tell())):
                yield chunk


def lines(chunks: Iterator[bytes], first: int = 1, longest: int = MAX_ROW) -> Iterator[Line]:
    """Lines with their numbers from `first` on; a byte order mark at the start is taken off.

    Of a line of more than `longest` bytes no more than that and a chunk is ever in memory.
    """
    number, open_line, too_long = first, bytearray(), False
    for chunk in chunks:
        start, *others = chunk.split(b"\n")
        open_line += b"" if too_long else start
        if len(open_line) > longest:
            open_line, too_long = bytearray(), True
        for part in others:
            yield _line(number, open_line, True, too_long, first)
            too_long = len(part) > longest
            number, open_line = number + 1, bytearray() if too_long else bytearray(part)
    if open_line or too_long:
        yield _line(number, open_line, False, too_long, first)


def _line(number: int, content: bytearray, ended: bool, too_long: bool, first: int) -> Line:
    return Line(number, bytes(content.removeprefix(BOM) if number == first else content), ended, too_long)


def decode(content: bytes) -> str:
    """UTF-8 as text. Raises BadRow for other encodings, naming the likely one."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"byte {error.start} is 0x{content[error.start]:02x}{_likely(content)}") from None


def _likely(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:  # later lines have no byte order mark
        return "; this looks like UTF-16: save it as UTF-8"
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return f"; in GB18030 it reads “{text[:20]}”: save it as UTF-8"


def _gz_chunks(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) as handle:
            while chunk := handle.read(CHUNK):
                yield chunk
    except EOFError:
        raise BadRow("cut-off file", "the gzip stream has no end") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadRow("damaged file", f"gzip: {error}") from None


def _zst_chunks(path: Path) -> Iterator[bytes]:
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame, size = None, 1024
    with path.open("rb") as handle:
        while chunk := handle.read(size):
            while chunk:
                frame = frame or unpacker.decompressobj()
                try:
                    content = frame.decompress(chunk)
                except zstandard.ZstdError as error:
                    raise BadRow("damaged file", f"zstd: {error}") from None
                yield content
                # Repetitive text packs a thousand to one: what is read follows from what the last read unpacked to.
                size = min(max(len(chunk) * CHUNK // (len(content) or 1), 64), 2 * size, CHUNK)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise BadRow("cut-off file", "the zstd stream has no end")
