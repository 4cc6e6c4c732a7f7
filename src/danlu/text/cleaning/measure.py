"""Measuring: all columns of a part that are missing, in one reading of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from danlu.ledger.counts import Counts
from danlu.text.cleaning.columns import ColumnReader, ColumnWriter, FindingsReader, column_writer
from danlu.text.cleaning.parts import Alterations, Part, Turn
from danlu.text.cleaning.scorers import scorer_of
from danlu.text.kernels import Batch
from danlu.text.ops.contents import characters_of
from danlu.text.ops.operator import Column
from danlu.text.problems import BadRow
from danlu.text.records import Record
from danlu.text.source import Place
from danlu.text.structure import checked


def measure(part: Part, turns: list[Turn], missing: list[int], with_records: bool) -> int:
    """Writes the column files of the turns at the places `missing`, and with `with_records` that of the part itself.

    Gives the number of records. The part's file also has what was read and left out ("counts"), and "characters"; the
    others have the CPU "seconds" that they took.
    """
    counts, rows, characters = Counts(), 0, 0
    walk = _Walk(part, turns, missing)
    with ExitStack() as stack:
        writers = {place: stack.enter_context(column_writer(turns[place].columns)) for place in missing}
        if with_records:
            writers[-1] = stack.enter_context(column_writer(part.records))
        for places, records in part.batches(counts):
            characters += _add(writers, walk, rows, places, records)
            rows += len(records)
        if rows == 0:
            _add(writers, walk, 0, [], [])  # for the columns' names
        for place, writer in writers.items():
            if place == -1:
                writer.close({"counts": counts.as_dict(), "characters": characters})
            else:
                writer.close({"seconds": round(walk.seconds[place], 3)})
    return rows


def _add(writers: dict[int, ColumnWriter], walk: _Walk, start: int, places: list[Place], records: list[Record]) -> int:
    for place, columns in walk.columns(start, records).items():
        writers[place].add(columns)
    lengths = list(map(characters_of, records))
    if -1 in writers:
        writers[-1].add(
            {
                "piece": np.array([place.piece for place in places], np.int32),
                "line": np.array([place.line for place in places], np.int64),
                "item": np.array([place.item for place in places], np.int32),
                "origin": [record.meta["origin"] for record in records],
                "characters": np.array(lengths, np.int64),
            }
        )
    return sum(lengths)


class _Walk:
    """Takes batches through the turns, up to the last that is missing; `seconds` says what each of those took."""

    def __init__(self, part: Part, turns: list[Turn], missing: list[int]) -> None:
        self._turns, self._missing = turns[: max(missing, default=-1) + 1], set(missing)
        known = {place: turn for place, turn in enumerate(self._turns) if turn.alters and place not in self._missing}
        self._known = {place: Alterations(part, [turn]) for place, turn in known.items()}
        self._found = {
            place: FindingsReader(list(turns[place].findings), part.number) for place in missing if turns[place].edits
        }
        self._languages: ColumnReader | None = None
        self.seconds: dict[int, float] = dict.fromkeys(missing, 0.0)

    def columns(self, start: int, records: list[Record]) -> dict[int, dict[str, Any]]:
        """By place, what the missing turns measure and change of a batch whose first row is `start`."""
        rows = np.arange(start, start + len(records))
        batch = _Batch(rows, records)
        columns: dict[int, dict[str, Any]] = {}
        for place, turn in enumerate(self._turns):
            if place in self._known:
                batch.replace(self._known[place].apply(rows, batch.records))
            elif place in self._missing:
                began = time.process_time()
                seen = self._seen(turn, batch)
                columns[place] = self._altered(place, turn, batch, seen) if turn.alters else {}
                if not turn.edits:
                    columns[place] |= _measured(turn, batch, seen)
                batch.fresh[turn.columns] = columns[place]
                self.seconds[place] += time.process_time() - began
        return columns

    def _seen(self, turn: Turn, batch: _Batch) -> tuple[int, ...] | None:
        """Which records of the batch the step looks at; None for all."""
        if turn.languages is None:
            return None
        if batch.languages is None:
            batch.languages = turn.languages.of(self._language_values(turn.languages.columns, batch))
        return tuple(np.flatnonzero(np.isin(batch.languages, turn.step.languages)).tolist())

    def _language_values(self, path: str, batch: _Batch) -> list[dict[str, Any]]:
        if path in batch.fresh:
            columns = batch.fresh[path]
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if self._languages is None:
            self._languages = ColumnReader(path)
        return self._languages.take(batch.rows).to_pylist()

    def _altered(self, place: int, turn: Turn, batch: _Batch, seen: tuple[int, ...] | None) -> dict[str, Any]:
        found = self._found[place].take(batch.rows) if turn.edits else {}
        indices = range(len(batch.records)) if seen is None else seen
        records = list(batch.records)
        changed = np.zeros(len(records), bool)
        unusable: list[str | None] = [None] * len(records)
        for index in indices:
            if turn.edits and index not in found:
                continue
            record = turn.altered(records[index], found.get(index, {}))
            if record is not records[index] and record != records[index]:
                records[index], changed[index] = record, True
                unusable[index] = _unusable(record)
        if changed.any():
            batch.replace(records)
        characters = np.array(list(map(characters_of, records)), np.int64)
        return {".changed": changed, ".unusable": unusable, ".characters": characters}


class _Batch:
    """Records on their way; one `Batch` as long as nothing changes, so that operators share work on it."""

    def __init__(self, rows: np.ndarray, records: list[Record]) -> None:
        self.rows, self.records = rows, Batch(records)
        self.fresh: dict[str, dict[str, Any]] = {}
        self.languages: np.ndarray | None = None
        self._parts: dict[tuple[int, ...], Batch] = {}

    def replace(self, records: list[Record]) -> None:
        self.records, self._parts = Batch(records), {}

    def only(self, seen: tuple[int, ...]) -> Batch:
        """The records at these places."""
        if len(seen) == len(self.records):
            return self.records
        if seen not in self._parts:
            self._parts[seen] = Batch(self.records[index] for index in seen)
        return self._parts[seen]


def _measured(turn: Turn, batch: _Batch, seen: tuple[int, ...] | None) -> Mapping[str, Column]:
    operator = turn.operator
    records = batch.records if seen is None else batch.only(seen)
    if operator.score:
        assert turn.scorer is not None
        columns = operator.score(records, turn.step, scorer_of(turn.scorer))
    elif operator.measure:
        columns = operator.measure(records, turn.step)
    else:
        return {}
    return columns if seen is None else {name: _spread(v, seen, len(batch.records)) for name, v in columns.items()}


def _spread(values: Column, seen: tuple[int, ...], rows: int) -> Any:
    """The values at their rows, null between them."""
    import pyarrow as pa

    places = np.full(rows, -1)
    places[list(seen)] = np.arange(len(seen))
    return pa.array(values, from_pandas=True).take(pa.array(places, mask=places < 0))


def _unusable(record: Record) -> str | None:
    try:
        checked(record)
    except BadRow as problem:
        return problem.reason
    return None
