"""Records from the rows of a source: selected, adapted, checked, with all that was left out counted."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.adapters.table import NESTED, choose
from danlu.text.files import source_files, source_name, tree_root
from danlu.text.problems import BadRow, LeftOut
from danlu.text.readers import Piece, Row, Wanted, read_piece
from danlu.text.records import Record
from danlu.text.select import Condition
from danlu.text.settings import Kind, SourceSettings
from danlu.text.structure import checked

META_CHARACTERS = 1000  # a longer text column is no property of the row
EARLY = 100  # bad rows after which a source with too many is given up before its end


def read_records(source: SourceSettings, kind: Kind, counts: Counts) -> Iterator[Record]:
    """The records of `kind` in a source, with the row's other scalar columns as `meta`, and `origin` "file:line".

    `counts` gets "rows", "records" and each reason for which a row was left out, mended or could not be used.
    Raises UserError where a source has nothing, or more unusable rows than it allows.
    """
    return read_pieces(source, kind, [Piece(str(file)) for file in source_files(source, kind, counts)], counts)


def read_pieces(source: SourceSettings, kind: Kind, pieces: Iterable[Piece], counts: Counts) -> Iterator[Record]:
    """The records in parts of a source's files, as `read_records` gives them."""
    return (record for _, record in read_places(source, kind, pieces, counts))


class Place(NamedTuple):
    """Where a record stands: the number of the piece, the row's number in its file, the record's in the row."""

    piece: int
    line: int
    item: int


def read_places(
    source: SourceSettings,
    kind: Kind,
    pieces: Iterable[Piece],
    counts: Counts,
    lines: Mapping[int, Container[int]] | None = None,
) -> Iterator[tuple[Place, Record]]:
    """The records with their places; with `lines`, by piece, only those of these rows: others are hardly looked at."""
    reading = _Reading(source, kind, counts)
    taken = 0
    for number, piece in enumerate(pieces):
        if lines is not None and number not in lines:
            continue
        for row in read_piece(piece, reading.unreadable, reading.wanted(None if lines is None else lines[number])):
            records = reading.records(row)
            for item, record in enumerate(records):
                yield Place(number, row.line, item), record
            taken += bool(records)
            if source.limit is not None and taken >= source.limit:
                return
    reading.finish()


def wanted_of(source: SourceSettings, columns: Set[str] | None = None, lines: Container[int] | None = None) -> Wanted:
    """What is read of a source's files."""
    return Wanted(source.document, columns, lines, source.max_row_bytes, tree_root(source))


class _Reading:
    def __init__(self, source: SourceSettings, kind: Kind, counts: Counts) -> None:
        self._source, self._kind, self._counts = source, kind, counts
        self._conditions = [Condition.parse(text) for text in source.where]
        self._name = source_name(source)
        self._root = _root(Path(source.path))
        self._file, self._short = "", ""
        self._rows, self._bad, self._first_bad = 0, 0, ""
        self._columns = NESTED | {part for c in self._conditions for part in (c.column, c.column.split(".")[0])}

    def wanted(self, lines: Container[int] | None) -> Wanted:
        """What is read of a piece."""
        return wanted_of(self._source, self._columns, lines)

    def unreadable(self, problem: BadRow, where: str) -> None:
        """Counts what a reader could not give as a row."""
        self._seen()
        if isinstance(problem, LeftOut):
            self._counts.add(f"left out: {problem.reason}", where)
        else:
            self._bad_row(problem, where)

    def finish(self) -> None:
        """Raises UserError where too large a share of the rows so far could not be used."""
        if self._bad > self._source.max_bad_share * self._rows:
            raise UserError(
                f"{self._bad} of {self._rows} rows cannot be used. The first: {self._first_bad}",
                where=self._source.path,
                do=f"mend the source, name its adapter, or raise max_bad_share (now {self._source.max_bad_share:g})",
            )

    def records(self, row: Row) -> list[Record]:
        """What a row holds: nothing where it is not selected or cannot be used."""
        self._seen()
        if not self._selected(row):
            return []
        try:
            adapter = choose(row.fields, self._kind, self._source.adapter)
            found = [checked(record) for record in adapter.read(row.fields)]
        except BadRow as problem:
            self._bad_row(problem, row.where)
            return []
        for _, mended in found:
            for note in mended:
                self._counts.add(note, row.where)
        if not found:
            self._counts.add(f"left out: no {self._kind} in the row", row.where)
        self._counts.add("records", times=len(found))
        used = set(adapter.uses.split())
        return [self._labelled(record, row, used) for record, _ in found]

    def _seen(self) -> None:
        self._rows += 1
        self._counts.add("rows")

    def _bad_row(self, problem: BadRow, where: str) -> None:
        if self._source.on_bad_row == "stop":
            raise UserError(str(problem), where=where, do="mend or remove the row, or set on_bad_row: skip")
        self._counts.add(f"bad: {problem.reason}", f"{where} ({problem.detail})" if problem.detail else where)
        self._bad += 1
        self._first_bad = self._first_bad or f"{where}: {problem}"
        if self._bad >= EARLY:
            self.finish()

    def _selected(self, row: Row) -> bool:
        for condition in self._conditions:
            holds = condition.holds(row.fields)
            if not holds:
                missing = f"left out: no value for {condition.column}"
                self._counts.add(missing if holds is None else f"left out: not {condition.text}", row.where)
                return False
        label = row.fields.get("label", row.fields.get("kto_tag"))
        if self._kind == "conversation" and label is False:
            self._counts.add("left out: labelled as a bad answer", row.where)
            return False
        return True

    def _labelled(self, record: Record, row: Row, used: set[str]) -> Record:
        meta: dict[str, Any] = {
            name: value for name, value in row.fields.items() if name not in used and _is_scalar(value)
        }
        if row.file != self._file:
            self._file, self._short = row.file, _under(self._root, Path(row.file))
        origin = f"{self._short}:{row.line}"
        meta |= {"origin": origin, **record.meta}
        return replace(record, source=self._source.name or record.source or self._name, meta=meta)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= META_CHARACTERS)


def _root(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _under(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
