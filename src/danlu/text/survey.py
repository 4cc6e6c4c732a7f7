"""What a file is made of: its hash, and the pieces in which tasks can read it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from danlu.ledger.files import sha256_file
from danlu.text.readers import Piece, file_form
from danlu.text.streams import CHUNK


def survey(file: str, piece_bytes: int) -> dict[str, Any]:
    """{"sha256", "bytes", "pieces"}: plain JSON lines are cut at line ends, parquet at row groups, others not."""
    path = Path(file)
    sha256, pieces = sha256_file(path), [Piece(file)]
    if file_form(path) == "parquet":
        pieces = _row_groups(file, piece_bytes)
    elif path.suffix in (".jsonl", ".ndjson"):
        sha256, pieces = _byte_ranges(path, piece_bytes)
    return {"sha256": sha256, "bytes": path.stat().st_size, "pieces": [asdict(piece) for piece in pieces]}


def groups(pieces: list[Piece], piece_bytes: int) -> list[list[Piece]]:
    """Neighbouring pieces, as many as make one task of about `piece_bytes`."""
    made: list[list[Piece]] = []
    size = piece_bytes
    for piece in pieces:
        if size >= piece_bytes:
            made.append([])
            size = 0
        made[-1].append(piece)
        plain = piece.stop is not None and file_form(Path(piece.file)) == "jsonl"
        size += piece.stop - piece.start if plain and piece.stop else Path(piece.file).stat().st_size
    return made


def _byte_ranges(path: Path, piece_bytes: int) -> tuple[str, list[Piece]]:
    digest, pieces = hashlib.sha256(), []
    at = start = 0
    line = first_line = 1
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
            cut = chunk.find(b"\n") + 1 if at + len(chunk) - start >= piece_bytes else 0
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
