"""What one task reads: pieces of a source as batches of records, and the steps in their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.counts import Counts
from danlu.text.cleaning.columns import ColumnReader, FindingsReader
from danlu.text.ops.contents import characters_of
from danlu.text.ops.language import language_of
from danlu.text.ops.operator import Operator
from danlu.text.ops.table import OPERATORS
from danlu.text.pieces import Lines, Piece
from danlu.text.records import Record
from danlu.text.settings import CleanSource, Step
from danlu.text.source import Place, read_places
from danlu.text.steps.base import Kind
from danlu.text.steps.basic import LanguageStep
from danlu.text.survey import check_unchanged

BATCH = 256  # records in memory
BATCH_CHARACTERS = 1 << 19  # or one record; with more, arrays leave the processor's cache and statistics get slower


@dataclass(frozen=True, slots=True)
class Part:
    """Pieces of a source that one task reads."""

    name: str
    """"documents/wiki/part-00000"."""
    number: int
    """Among the parts of its kind."""
    kind: Kind
    source_number: int
    source: CleanSource
    pieces: list[Piece]
    stamps: dict[str, list[int]]
    """Size and time of change of each file when it was surveyed."""
    records: str
    """The file with place, origin and length of each record."""

    @property
    def files(self) -> list[Path]:
        return [Path(file) for file in self.stamps]

    def batches(self, counts: Counts) -> Iterator[tuple[list[Place], list[Record]]]:
        """All records, a batch at a time. Raises UserError where a file is not what it was when it was surveyed."""
        return self._batches(counts, None)

    def batches_of(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, list[Record]]]:
        """The records of `rows`, which rise; lines without any are passed over unread."""
        places = ColumnReader(self.records, ["piece", "line", "item"]).take(rows)
        pieces, numbers = places["piece"].to_numpy(), places["line"].to_numpy()
        lines = {piece: Lines(numbers[pieces == piece]) for piece in np.unique(pieces).tolist()}
        wanted = _each(places)
        next_one, at = next(wanted, None), 0
        for found, records in self._batches(Counts(), lines):
            start, mine = at, []
            for place, record in zip(found, records, strict=True):
                if place == next_one:
                    mine.append(record)
                    next_one, at = next(wanted, None), at + 1
            yield rows[start:at], mine

    def _batches(self, counts: Counts, lines: Mapping[int, Lines] | None) -> Iterator[tuple[list[Place], list[Record]]]:
        self._check_files()
        places: list[Place] = []
        records: list[Record] = []
        size = 0
        for place, record in read_places(self.source, self.kind, self.pieces, counts, lines):
            more = characters_of(record)
            if records and (len(records) == BATCH or size + more > BATCH_CHARACTERS):
                yield places, records
                places, records, size = [], [], 0
            places.append(place)
            records.append(record)
            size += more
        if records:
            yield places, records
        self._check_files()

    def _check_files(self) -> None:
        for file, stamp in self.stamps.items():
            check_unchanged(Path(file), stamp)


def _each(places: Any) -> Iterator[Place]:
    """The rows of an arrow table of places, a stretch of them as objects at a time: a packed file has millions."""
    for batch in places.to_batches():
        yield from map(Place, *(batch.column(name).to_pylist() for name in Place._fields))


@dataclass(frozen=True, slots=True)
class Languages:
    """Where the language of each record was measured, and from which shares on it is which."""

    columns: str
    step: LanguageStep

    def of(self, values: list[dict[str, Any]]) -> np.ndarray:
        """The languages of rows with these values."""
        return np.array([language_of(row, self.step) for row in values], dtype="U5")


@dataclass(frozen=True, slots=True)
class Turn:
    """A step in its place, for one part. A step with an `edit` has a second turn, after all that was found."""

    step: Step
    columns: str
    """The file with what it measured, or with which records it changed."""
    edits: bool = False
    findings: tuple[str, ...] = ()
    languages: Languages | None = None
    """Given where the step looks at some languages only."""
    scorer: dict[str, Any] | None = field(default=None)

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.step.op]

    @property
    def alters(self) -> bool:
        """Whether it makes records anew."""
        return self.edits or self.operator.change is not None

    def altered(self, record: Record, found: dict[str, Any]) -> Record:
        """The record as the step leaves it."""
        if self.edits:
            assert self.operator.edit is not None
            return self.operator.edit(record, found, self.step)
        assert self.operator.change is not None
        return self.operator.change(record, self.step)


class Alterations:
    """Takes batches of a part, in order, through turns that were measured before: what is unchanged is not touched."""

    def __init__(self, part: Part, turns: list[Turn]) -> None:
        self._changed = {
            place: ColumnReader(turn.columns, [".changed"]) for place, turn in enumerate(turns) if turn.alters
        }
        self._found = {
            place: FindingsReader(list(turns[place].findings), part.number)
            for place in self._changed
            if turns[place].edits
        }
        self._turns = turns

    def apply(self, rows: np.ndarray, records: list[Record], until: np.ndarray | None = None) -> list[Record]:
        """The records of `rows` as the turns leave them, each by the turns up to its place in `until` alone."""
        records = list(records)
        for place, changed in self._changed.items():
            found = self._found[place].take(rows) if place in self._found else {}
            flags = changed.take(rows).column(0).to_numpy(zero_copy_only=False)
            if until is not None:
                flags = flags & (until >= place)
            for index in np.flatnonzero(flags).tolist():
                records[index] = self._turns[place].altered(records[index], found.get(index, {}))
        return records
