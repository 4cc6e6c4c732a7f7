"""What a reader takes and gives: a part of a file, what is wanted of it, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from danlu.text.problems import BadRow
from danlu.text.settings import DocumentUnit
from danlu.text.streams import MAX_ROW


@dataclass(frozen=True, slots=True)
class Row:
    """Named values and where they stand: the line of a text file, the number of an item, a record or a parquet row."""

    fields: dict[str, Any]
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file: bytes [start, stop) of plain lines, row groups [start, stop) of parquet, else all of it."""

    file: str
    start: int = 0
    stop: int | None = None
    first_line: int = 1


class Lines:
    """Numbers of rows, one at least: a byte for each from the first to the last, as a packed file has millions."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._first = int(numbers.min())
        flags = np.zeros(int(numbers.max()) + 1 - self._first, np.uint8)
        flags[numbers - self._first] = 1
        self._flags = flags.tobytes()

    def __contains__(self, number: object) -> bool:
        place = number - self._first if isinstance(number, int) else -1
        return 0 <= place < len(self._flags) and self._flags[place] == 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a file is read: `document` says what one row of a .txt or .md file is."""

    document: DocumentUnit = "file"
    columns: Set[str] | None = None
    """Where known, it spares parquet files the decoding of nested columns that nobody asks for."""
    lines: Container[int] | None = None
    """The numbers of the rows to read; None for all."""
    longest: int = MAX_ROW
    """Bytes; a longer row is a bad row, of which little is ever in memory."""
    tree: Path | None = None
    """The folder of source code that the file belongs to; None where files hold data."""

    def has(self, line: int) -> bool:
        return self.lines is None or line in self.lines

    def too_long(self, what: str = "document", advice: str = "") -> BadRow:
        """What is wrong with a line or document of more than `longest` bytes."""
        return BadRow(f"{what} too long", f"more than max_row_bytes, {self.longest / 1e6:g} MB{advice}")


Numbered = Iterator[tuple[int, Any]]
"""Rows with their numbers, before their values are looked through."""
BadAt = Callable[[BadRow, int], None]
"""Takes what is wrong and the number of the row."""
