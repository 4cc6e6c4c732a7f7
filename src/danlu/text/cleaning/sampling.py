"""A small share of a source, taken from all over it, without reading the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from danlu.text.problems import BadRow
from danlu.text.readers import Piece, Row, Wanted, file_form, read_piece
from danlu.text.settings import CleanSource
from danlu.text.source import wanted_of
from danlu.text.streams import COMPRESSED, byte_chunks

STRETCH = 1 << 18  # bytes of a file that are taken in one go, and at least so many of one
ZSTD_BLOCK = 1 << 17  # bytes that unpack together


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows as JSON lines in `file`, and the share of the source's text that they are."""

    file: Path
    rows: int
    share: float


def sample_source(source: CleanSource, files: list[Path], share: float, folder: Path) -> Sample:
    """Writes about `share` of a source's rows to a file in `folder`: stretches of plain files and of row groups from
    everywhere, the start of files that are packed or one piece; of many small files some, of each form at least one.
    """
    out, due, number = folder / "rows.jsonl", 0.0, 0
    # By form of file: bytes on disk, those of them that were taken, and what these are as text.
    disk, taken, text = Counter[str](), Counter[str](), Counter[str]()
    with out.open("w", encoding="utf-8") as handle:
        for file in files:
            size, form = file.stat().st_size, "".join(file.suffixes[-2:])
            disk[form] += size
            due += share * size
            if due < min(STRETCH, size) and taken[form]:
                continue
            stretch = min(size, max(int(due), STRETCH))
            due -= stretch
            for rows, nbytes in _stretches(file, size, stretch, source, folder):
                taken[form] += nbytes
                for row in rows:
                    line = json.dumps(row.fields, ensure_ascii=False) + "\n"
                    handle.write(line)
                    text[form] += len(line.encode())
                    number += 1
                    if source.limit is not None and number >= max(100, share * source.limit):
                        return Sample(out, number, min(1.0, number / source.limit))
    whole = sum(disk[form] * text[form] / taken[form] for form in taken if taken[form])
    return Sample(out, number, text.total() / whole if whole else 1.0)


def _stretches(
    file: Path, size: int, stretch: int, source: CleanSource, folder: Path
) -> Iterator[tuple[Iterator[Row], int]]:
    """Rows of a file, and the bytes of it that they are."""
    wanted = wanted_of(source)
    form = file_form(file)
    if stretch == size:
        yield read_piece(Piece(str(file)), _ignore, wanted), size
    elif file.suffix in COMPRESSED:
        start = folder / f"start{''.join(file.suffixes[-2:])}"
        with file.open("rb") as whole, start.open("wb") as part:
            part.write(whole.read(stretch))
        yield read_piece(Piece(str(start)), _ignore, wanted), round(stretch * _whole_rows(start))
    elif form == "parquet":
        yield from _row_groups(file, size, stretch, wanted)
    elif form == "jsonl" or (form == "text" and source.document != "file"):
        for piece in _byte_ranges(file, size, stretch, b"\n\n" if source.document == "paragraph" else b"\n"):
            yield read_piece(piece, _ignore, wanted), (piece.stop or 0) - piece.start
    else:
        yield _until(read_piece(Piece(str(file)), _ignore, wanted), stretch), stretch


def _whole_rows(start: Path) -> float:
    """How much of a packed file's start is whole rows: its last block does not unpack, its last row has no end."""
    size = tail = 0
    with suppress(BadRow):
        for chunk in byte_chunks(start):
            size += len(chunk)
            end = chunk.rfind(b"\n")
            tail = tail + len(chunk) if end < 0 else len(chunk) - end - 1
    return (size - tail) / (size + (ZSTD_BLOCK // 2 if start.suffix == ".zst" else 0) or 1)


def _until(rows: Iterator[Row], nbytes: int) -> Iterator[Row]:
    for row in rows:
        yield row
        nbytes -= len(json.dumps(row.fields, ensure_ascii=False).encode())
        if nbytes <= 0:
            return


def _byte_ranges(file: Path, size: int, stretch: int, row_end: bytes) -> Iterator[Piece]:
    """Whole rows from places all over a plain file, `stretch` bytes together."""
    count = max(1, min(stretch // STRETCH, 64))
    each, stop = stretch // count, 0
    with file.open("rb") as handle:
        for number in range(count):
            place = max(stop, size * number // count)
            start = _after(handle, place, row_end, size) if place > stop else stop
            stop = _after(handle, min(start + each, size), row_end, size)
            if start < stop:
                yield Piece(str(file), start, stop)


def _after(handle: IO[bytes], place: int, row_end: bytes, size: int) -> int:
    """Where the first row behind `place` begins."""
    handle.seek(place)
    behind = b""
    while chunk := handle.read(1 << 16):
        found = (behind + chunk).find(row_end)
        if found >= 0:
            return place - len(behind) + found + len(row_end)
        place += len(chunk)
        behind = chunk[-1:]
    return size


def _row_groups(file: Path, size: int, stretch: int, wanted: Wanted) -> Iterator[tuple[Iterator[Row], int]]:
    """The first rows of row groups all over the file."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(file)
    groups, rows = metadata.num_row_groups, max(1, metadata.num_rows * stretch // size)
    count = min(groups, max(stretch // STRETCH, -(-rows * groups // metadata.num_rows)))
    for number in range(count):
        group = groups * number // count
        taken = min(-(-rows // count), metadata.row_group(group).num_rows)
        yield (
            islice(read_piece(Piece(str(file), group, group + 1), _ignore, wanted), taken),
            (size * taken // metadata.num_rows),
        )


def _ignore(problem: BadRow, where: str) -> None:
    """What cannot be read is no part of a sample."""
