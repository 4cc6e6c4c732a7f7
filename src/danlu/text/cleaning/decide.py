"""Deciding from columns and findings alone, without a look at any text, which records go, at which step and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.text.cleaning.columns import STRETCH, ColumnReader, FindingsReader, column_writer
from danlu.text.cleaning.parts import Languages, Part, Turn
from danlu.text.cleaning.tally import Histogram, Tally


def decide(
    part: Part, turns: list[Turn], first: int, languages: Languages | None, before: str, out: str
) -> dict[str, Any]:
    """Goes on from the verdicts in `before` ("": all alive) with the turns from place `first` on.

    Writes `turn` (the place of the one that drops, -1 for the living), `reason`, `value` as JSON, and the `characters`
    that a record has by now; beside them a tally of each turn ("turns") and of the living by language ("languages").
    Gives {"alive", "found"}: hashes of who lives, and of what the gathering turns among them found.
    """
    deciding = _Deciding(part, turns, first, languages, before)
    alive = hashlib.sha256()
    with column_writer(out) as writer:
        for stretch in deciding.stretches():
            writer.add(stretch.columns())
            alive.update((stretch.turn < 0).tobytes())
        writer.close(deciding.tallies())
    return {"alive": alive.hexdigest(), "found": deciding.found.hexdigest()}


@dataclass(slots=True)
class _Stretch:
    """Some rows, and what is known of each by now."""

    rows: np.ndarray
    origins: list[str]
    languages: np.ndarray | None
    turn: np.ndarray
    reason: list[str | None]
    value: list[str | None]
    characters: np.ndarray

    def drop(self, index: int, place: int, reason: str, value: Any) -> None:
        self.turn[index] = place
        self.reason[index], self.value[index] = reason, json.dumps(value, ensure_ascii=False)

    def columns(self) -> dict[str, Any]:
        return {"turn": self.turn, "reason": self.reason, "value": self.value, "characters": self.characters}


class _Deciding:
    def __init__(self, part: Part, turns: list[Turn], first: int, languages: Languages | None, before: str) -> None:
        self._turns = dict(enumerate(turns[first:], first))
        self._columns = {place: ColumnReader(turn.columns) for place, turn in self._turns.items() if turn.columns}
        self._findings = {
            place: FindingsReader(list(turn.findings), part.number)
            for place, turn in self._turns.items()
            if turn.operator.gather and not turn.edits
        }
        self._records = ColumnReader(part.records, ["origin", "characters"])
        self._before = ColumnReader(before) if before else None
        self._languages = languages
        self._language_columns = ColumnReader(languages.columns) if languages else None
        self._tallies = {place: Tally() for place in self._turns}
        self._alive: dict[str, list[int]] = {}
        self.found = hashlib.sha256()

    def stretches(self) -> Iterator[_Stretch]:
        for start in range(0, max(1, self._records.rows), STRETCH):
            stretch = self._stretch(np.arange(start, min(start + STRETCH, self._records.rows)))
            for place, turn in self._turns.items():
                self._take_turn(place, turn, stretch)
            self._count_living(stretch)
            yield stretch

    def tallies(self) -> dict[str, Any]:
        return {"turns": [tally.as_dict() for tally in self._tallies.values()], "languages": self._alive}

    def _stretch(self, rows: np.ndarray) -> _Stretch:
        records = self._records.take(rows)
        reason: list[str | None]
        languages = None
        if self._languages and self._language_columns:
            languages = self._languages.of(self._language_columns.take(rows).to_pylist())
        if self._before is None:
            turn, characters = np.full(len(rows), -1, np.int16), records["characters"].to_numpy().copy()
            reason = [None] * len(rows)
            value = reason.copy()
        else:
            before = self._before.take(rows)
            turn, characters = before["turn"].to_numpy().copy(), before["characters"].to_numpy().copy()
            reason, value = before["reason"].to_pylist(), before["value"].to_pylist()
        return _Stretch(rows, records["origin"].to_pylist(), languages, turn, reason, value, characters)

    def _take_turn(self, place: int, turn: Turn, stretch: _Stretch) -> None:
        tally = self._tallies[place]
        seen = stretch.turn < 0
        if turn.languages is not None and stretch.languages is not None:
            seen &= np.isin(stretch.languages, turn.step.languages)
        tally.add(rows=seen.sum(), characters_in=stretch.characters[seen].sum())
        own = self._columns[place].take(stretch.rows) if place in self._columns else None
        if turn.alters:
            _after_change(place, own, seen, stretch, tally)
        if own is not None:
            _measure(own, seen, stretch.characters, tally)
        if not turn.edits:
            self._judge(place, turn, own, seen & (stretch.turn < 0), stretch)
        tally.add(characters_out=stretch.characters[seen & (stretch.turn < 0)].sum())
        for index in np.flatnonzero(seen & (stretch.turn == place)).tolist():
            tally.dropped.add(str(stretch.reason[index]), stretch.origins[index])

    def _judge(self, place: int, turn: Turn, own: Any, seen: np.ndarray, stretch: _Stretch) -> None:
        findings = self._findings.get(place)
        found = findings.take(stretch.rows) if findings else {}
        for index, values in found.items():
            self.found.update(f"{stretch.rows[index]} {json.dumps(values, default=str)}\n".encode())
        judge = turn.operator.judge
        if judge is None:
            return
        nothing = dict.fromkeys(findings.names) if findings else {}
        indices = np.flatnonzero(seen)
        rows = own.take(indices).to_pylist() if own is not None else [{}] * len(indices)
        for index, values in zip(indices.tolist(), rows, strict=True):
            verdict = judge({**values, **found.get(index, nothing)} if findings else values, turn.step)
            if verdict is not None:
                stretch.drop(index, place, *verdict)

    def _count_living(self, stretch: _Stretch) -> None:
        for language in [] if stretch.languages is None else np.unique(stretch.languages).tolist():
            mine = (stretch.languages == language) & (stretch.turn < 0)
            entry = self._alive.setdefault(language, [0, 0])
            entry[0] += int(mine.sum())
            entry[1] += int(stretch.characters[mine].sum())


def _after_change(place: int, own: Any, seen: np.ndarray, stretch: _Stretch, tally: Tally) -> None:
    """Takes over the lengths that a change left, and drops what it left unusable."""
    changed = own[".changed"].to_numpy() & seen
    tally.add(changed=changed.sum())
    stretch.characters[changed] = own[".characters"].to_numpy()[changed]
    for index in np.flatnonzero(changed & own[".unusable"].is_valid().to_numpy()).tolist():
        stretch.drop(index, place, own[".unusable"][index].as_py(), None)


def _measure(own: Any, seen: np.ndarray, characters: np.ndarray, tally: Tally) -> None:
    """Adds the step's quantities to its histograms."""
    import pyarrow as pa

    for name in own.column_names:
        column, kind = own[name], own[name].type
        if name.startswith(".") or pa.types.is_uint64(kind):
            continue
        if pa.types.is_boolean(kind):
            column, kind = column.cast(pa.uint8()), pa.uint8()
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            values = column.cast(pa.float64()).to_numpy()
            tally.columns.setdefault(name, Histogram()).add(values[seen], characters[seen])
