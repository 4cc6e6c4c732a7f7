"""The records that a page shows: few, the same every time, from all sources and from both sides of each threshold."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from danlu.report.data.panels import Panel
from danlu.text.cleaning.columns import ColumnReader, FindingsReader
from danlu.text.cleaning.trail import PartTrail, Trail
from danlu.text.records import Record

MOST_PARTS = 12
MOST_ROWS = 1 << 14
"""Of a part, from its beginning: larger parts are not searched further for examples."""
MOST_VALUED = 420
"""Examples for thresholds, all panels together."""
DROPS = 4
"""Of each reason at each step."""
CHANGES = 5
"""Of each step."""
Key = tuple[int, int]
"""Number of the part and row."""


@dataclass(slots=True)
class Example:
    """A record that is shown. `text` is filled with what it said at the turn where it was dropped, or at the end."""

    trail: PartTrail
    row: int
    origin: str
    language: str
    turn: int
    """Where it was dropped; -1 for a kept one."""
    reason: str | None
    value: Any
    values: dict[int, float] = field(default_factory=dict)
    """What was measured, by the number of the panel."""
    record: Record | None = None

    @property
    def step(self) -> str:
        """What the step is called that dropped it."""
        return self.trail.turns[self.turn].step.called if self.turn >= 0 else ""


@dataclass(frozen=True, slots=True)
class Change:
    """What a step made of a record."""

    trail: PartTrail
    place: int
    origin: str
    before: Record
    after: Record


@dataclass(slots=True)
class Samples:
    """All that is shown."""

    valued: list[Example]
    """With a value for at least one panel that has thresholds."""
    dropped: list[Example]
    changes: list[Change]


def take_samples(trail: Trail, panels: list[Panel]) -> Samples:
    """Chooses records by the hash of where they come from and reads them. Bounded, whatever the corpus is."""
    taking = _Taking(trail, panels)
    for part in _chosen(trail.parts):
        taking.choose(part)
    return taking.read()


def _chosen(parts: list[PartTrail]) -> list[PartTrail]:
    """One part of each source, then another of each, and so on."""
    by_source: dict[str, list[PartTrail]] = {}
    for part in sorted(parts, key=lambda trail: zlib.crc32(trail.part.name.encode())):
        by_source.setdefault(part.part.name.rpartition("/")[0], []).append(part)
    deepest = max(map(len, by_source.values()), default=0)
    order = [of[depth] for depth in range(deepest) for _, of in sorted(by_source.items()) if depth < len(of)]
    return order[:MOST_PARTS]


class _Taking:
    def __init__(self, trail: Trail, panels: list[Panel]) -> None:
        self._panels = {number: panel for number, panel in enumerate(panels) if panel.bounds is not None}
        each = max(8, MOST_VALUED // max(1, len(self._panels)))
        self._wanted = {number: _wanted_cells(panel, each) for number, panel in self._panels.items()}
        self._drops, self._changed = Counter[tuple[str, int, str | None]](), Counter[int | None]()
        self._valued: dict[tuple[str, int], Example] = {}
        self._dropped: dict[tuple[str, int], Example] = {}
        self._changes: list[tuple[PartTrail, int, int]] = []

    def choose(self, trail: PartTrail) -> None:
        part = _Part(trail)
        for number, panel in self._panels.items():
            for place, turn_number in enumerate(trail.numbers):
                if turn_number == panel.number and not trail.turns[place].edits:
                    self._choose_values(part, number, part.values(place, panel.column, panel.language))
        turns = part.turn[part.order]
        for row in part.order[turns >= 0].tolist():
            key = (trail.part.kind, int(part.turn[row]), part.reason[row])
            if self._drops[key] < DROPS:
                self._drops[key] += 1
                self._dropped[trail.part.name, row] = part.example(row)
        for place, turn in enumerate(trail.turns):
            if turn.alters:
                changed = part.changed(place)
                for row in changed[: CHANGES - self._changed[trail.numbers[place]]].tolist():
                    self._changed[trail.numbers[place]] += 1
                    self._changes.append((trail, place, row))

    def read(self) -> Samples:
        """Reads what was chosen, part by part."""
        examples = [*self._valued.values(), *self._dropped.values()]
        changes: list[Change] = []
        trails = {of.part.name: of for of in [*(e.trail for e in examples), *(of for of, *_ in self._changes)]}
        for name, trail in trails.items():
            mine = [example for example in examples if example.trail.part.name == name]
            changed = [(place, row) for of, place, row in self._changes if of.part.name == name]
            changes += _read(trail, mine, changed)
        return Samples(list(self._valued.values()), list(self._dropped.values()), changes)

    def _choose_values(self, part: _Part, number: int, values: np.ndarray) -> None:
        """Takes a record for each wanted cell that has none, and notes the value of all that were taken."""
        cells = self._panels[number].cells_of(values)[part.order]
        found, first = np.unique(cells, return_index=True)
        for cell, at in zip(found.tolist(), first.tolist(), strict=True):
            row = int(part.order[at])
            if self._wanted[number].get(cell, 0) > 0:
                self._wanted[number][cell] -= 1
                self._valued.setdefault((part.trail.part.name, row), part.example(row))
        for (name, row), example in self._valued.items():
            if name == part.trail.part.name and not np.isnan(values[row]):
                example.values[number] = float(values[row])


def rows_with(trail: Trail, op: str, count: int) -> Iterator[tuple[Record, str]]:
    """For each count that a step made, some records in which it is not 0, as they were before the step."""
    found = Counter[str]()
    for part_trail in _chosen(trail.parts):
        for place, turn in enumerate(part_trail.turns):
            if turn.step.op != op or not turn.columns:
                continue
            part, wanted = _Part(part_trail), list[tuple[int, str]]()
            for name in (name for name in ColumnReader(turn.columns).names if not name.startswith(".")):
                values = part.values(place, name)[part.order]
                rows = part.order[np.nan_to_num(values) > 0][: count - found[name]].tolist()
                found[name] += len(rows)
                wanted += [(row, name) for row in rows]
            if wanted:
                before = part_trail.before(place, part_trail.originals_of([row for row, _ in wanted]))
                yield from ((before[row], name) for row, name in wanted)


def _wanted_cells(panel: Panel, count: int) -> dict[int, int]:
    """How many examples are wanted of each cell: more beside the thresholds of now, else evenly."""
    last = len(panel.lowest) - 1
    cells = np.linspace(0, last, min(count, last + 1)).astype(int).tolist()
    beside = [panel.low - 1, panel.low, panel.high - 1, panel.high]
    return dict.fromkeys(cells, 1) | {cell: 3 for cell in beside if 0 <= cell <= last}


class _Part:
    """The first rows of a part, with what is known of them, in an order by hash."""

    def __init__(self, trail: PartTrail) -> None:
        self.trail = trail
        origins = ColumnReader(trail.part.records, ["origin"])
        self._rows = np.arange(min(origins.rows, MOST_ROWS))
        self._origin = origins.take(self._rows)["origin"].to_pylist()
        verdicts = ColumnReader(trail.verdicts, ["turn", "reason", "value"]).take(self._rows)
        self.turn = verdicts["turn"].to_numpy()
        self.reason = verdicts["reason"].to_pylist()
        self._value = verdicts["value"].to_pylist()
        hashes = [zlib.crc32(f"{trail.part.source_number} {origin}".encode()) for origin in self._origin]
        self.order = np.argsort(np.array(hashes, np.int64), kind="stable")
        self._languages: np.ndarray | None = None
        if trail.languages:
            self._languages = trail.languages.of(ColumnReader(trail.languages.columns).take(self._rows).to_pylist())

    def values(self, place: int, column: str, language: str = "") -> np.ndarray:
        """A measured or found column, NaN where the step did not look, and for other languages than a given one."""
        turn = self.trail.turns[place]
        values = np.full(len(self._rows), np.nan)
        reader = ColumnReader(turn.columns, [column]) if turn.columns else None
        if reader and reader.names:
            import pyarrow as pa

            values = reader.take(self._rows).column(0).cast(pa.float64()).to_numpy().copy()
        elif turn.findings:
            for row, found in FindingsReader(list(turn.findings), self.trail.part.number).take(self._rows).items():
                values[row] = np.nan if found[column] is None else found[column]
        values[(self.turn >= 0) & (self.turn < place)] = np.nan
        if turn.languages is not None and self._languages is not None:
            values[~np.isin(self._languages, [language] if language else turn.step.languages)] = np.nan
        return values

    def changed(self, place: int) -> np.ndarray:
        """The rows that a turn changed, those that live until then."""
        flags = ColumnReader(self.trail.turns[place].columns, [".changed"]).take(self._rows).column(0).to_numpy()
        alive = (self.turn < 0) | (self.turn >= place)
        return self.order[(flags & alive)[self.order]]

    def example(self, row: int) -> Example:
        language = "" if self._languages is None else str(self._languages[row])
        value = self._value[row]
        return Example(
            self.trail, row, self._origin[row], language, int(self.turn[row]), self.reason[row],
            None if value is None else json.loads(value),
        )  # fmt: skip


def _read(trail: PartTrail, examples: list[Example], changed: list[tuple[int, int]]) -> Iterable[Change]:
    """Gives the examples of a part their records; makes the changes."""
    last = len(trail.turns)
    places = {id(example): last if example.turn < 0 else _seen_by(trail, example.turn) for example in examples}
    originals = trail.originals_of([*(example.row for example in examples), *(row for _, row in changed)])
    wanted = {*places.values(), *(place for place, _ in changed), *(place + 1 for place, _ in changed)}
    at, since = {0: originals}, 0
    for place in sorted(wanted):
        at[place] = trail.before(place, at[since], since)
        since = place
    for example in examples:
        example.record = at[places[id(example)]][example.row]
    return [
        Change(trail, place, at[place][row].meta["origin"], at[place][row], at[place + 1][row])
        for place, row in changed
    ]


def _seen_by(trail: PartTrail, place: int) -> int:
    """The turn before which a record is as the one at `place` judges it."""
    return place + 1 if trail.turns[place].alters and not trail.turns[place].edits else place
