"""What a file is made of: its hash, and the pieces in which tasks can read it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.ledger.files import sha256_file
from danlu.text.readers import Piece, file_form
from danlu.text.settings import DocumentUnit
from danlu.text.streams import CHUNK, COMPRESSED

SLACK = 1.25
PACKING = 4  # text over what .zst and .gz make of it


def survey(file: str, piece_bytes: int, document: DocumentUnit = "file") -> dict[str, Any]:
    """{"sha256", "bytes", "stamp", "pieces"}: plain JSON lines and text are cut between rows, parquet between row
    groups, other files are one piece. Raises UserError for a file to which somebody writes.
    """
    path = Path(file)
    stamp = stamp_of(path)
    sha256, pieces = "", [Piece(file)]
    ending = _row_end(path, document)
    if ending:
        sha256, pieces = _byte_ranges(path, piece_bytes, ending)
    else:
        sha256 = sha256_file(path)
        if file_form(path) == "parquet":
            pieces = _row_groups(file, piece_bytes)
    check_unchanged(path, stamp)
    return {"sha256": sha256, "bytes": stamp[0], "stamp": stamp, "pieces": [asdict(piece) for piece in pieces]}


def stamp_of(path: Path) -> list[int]:
    """Size and time of change, [-1, -1] for a file that is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def check_unchanged(path: Path, stamp: list[int]) -> None:
    """Raises UserError where a file is not what it was when it was looked at."""
    if stamp_of(path) != stamp:
        raise UserError(
            "this file changed while it was read",
            where=str(path),
            do="run again once nothing writes to it, or clean a copy",
        )


def groups(pieces: list[Piece], piece_bytes: int) -> list[list[Piece]]:
    """Neighbouring pieces, as many as make one task of about `piece_bytes` of text."""
    made: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        path = Path(piece.file)
        cut = piece.stop is not None and path.suffix not in COMPRESSED and file_form(path) != "parquet"
        more = piece.stop - piece.start if cut and piece.stop else text_bytes(path)
        if not made or size + more > SLACK * piece_bytes:  # a cut piece is a little less or more than asked for
            made.append([])
            size = 0
        made[-1].append(piece)
        size += more
    return made


def text_bytes(path: Path) -> int:
    """About how many bytes of text a file holds."""
    return path.stat().st_size * (PACKING if path.suffix in COMPRESSED else 1)


def _row_end(path: Path, document: DocumentUnit) -> bytes | None:
    """What stands between two rows of a plain file, None where it cannot be cut."""
    if path.suffix in COMPRESSED:
        return None
    form = file_form(path)
    if form == "text":
        return {"line": b"\n", "paragraph": b"\n\n", "file": None}[document]
    return b"\n" if form == "jsonl" else None


def _byte_ranges(path: Path, piece_bytes: int, row_end: bytes) -> tuple[str, list[Piece]]:
    digest, pieces = hashlib.sha256(), []
    at = start = 0
    line = first_line = 1
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
            found = chunk.find(row_end) if at + len(chunk) - start >= piece_bytes else -1
            cut = found + len(row_end) if found >= 0 else 0
            line += chunk.count(b"\n", 0, cut)
            if cut:
                pieces.append(Piece(str(path), start, at + cut, first_line))
                start, first_line = at + cut, line
            line += chunk.count(b"\n", cut)
            at += len(chunk)
    return digest.hexdigest(), [
        *pieces,
        Piece(str(path), start, at, first_line),
    ] if at > start or not pieces else pieces


def _row_groups(file: str, piece_bytes: int) -> list[Piece]:
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file)
    except (pyarrow.ArrowException, OSError):
        return [Piece(file)]  # the reader says what is wrong with it
    pieces: list[Piece] = []
    start, row, size, rows = 0, 1, 0, 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        size, rows = size + group.total_byte_size, rows + group.num_rows
        if size >= piece_bytes or index == metadata.num_row_groups - 1:
            pieces.append(Piece(file, start, index + 1, row))
            start, row, size, rows = index + 1, row + rows, 0, 0
    return pieces or [Piece(file)]
