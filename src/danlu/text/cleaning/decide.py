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
from danlu.text.cleaning.tally import Tally


def decide(
    part: Part, turns: list[Turn], first: int, languages: Languages | None, tokens: str, before: str, out: str
) -> dict[str, Any]:
    """Goes on from the verdicts in `before` ("": all alive) with the turns from place `first` on.

    Writes `turn` (the place of the one that drops, -1 for the living), `reason`, `value` as JSON, and the `characters`
    that a record has by now; beside them a tally of each turn by language ("turns") and of the living ("languages").
    `tokens` is the file of columns in which records were counted in tokens, or "".
    Gives {"alive", "found"}: hashes of who lives, and of what the gathering turns among them found.
    """
    deciding = _Deciding(part, turns, first, languages, tokens, before)
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
    tokens: np.ndarray

    def by_language(self, seen: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The rows that are seen, by their language; "" where nobody asked for it."""
        if self.languages is None:
            yield "", seen
            return
        for language in np.unique(self.languages[seen]).tolist():
            yield language, seen & (self.languages == language)

    def drop(self, index: int, place: int, reason: str, value: Any) -> None:
        self.turn[index] = place
        self.reason[index], self.value[index] = reason, json.dumps(value, ensure_ascii=False)

    def columns(self) -> dict[str, Any]:
        return {"turn": self.turn, "reason": self.reason, "value": self.value, "characters": self.characters}


class _Deciding:
    def __init__(
        self, part: Part, turns: list[Turn], first: int, languages: Languages | None, tokens: str, before: str
    ) -> None:
        self._turns = dict(enumerate(turns[first:], first))
        self._columns = {
            place: ColumnReader(turn.columns, _single(turn.columns))
            for place, turn in self._turns.items()
            if turn.columns
        }
        self._findings = {
            place: FindingsReader(list(turn.findings), part.number)
            for place, turn in self._turns.items()
            if turn.operator.gather and not turn.edits
        }
        self._records = ColumnReader(part.records, ["origin", "characters"])
        self._before = ColumnReader(before) if before else None
        self._languages = languages
        self._language_columns = ColumnReader(languages.columns) if languages else None
        self._tokens = ColumnReader(tokens, ["count"]) if tokens else None
        self._tallies: dict[int, dict[str, Tally]] = {place: {} for place in self._turns}
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
        by_turn = [{language: tally.as_dict() for language, tally in of.items()} for of in self._tallies.values()]
        return {"turns": by_turn, "languages": self._alive}

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
        tokens = np.zeros(len(rows), np.int64)
        if self._tokens is not None:
            tokens = np.nan_to_num(self._tokens.take(rows).column(0).to_numpy()).astype(np.int64)
        return _Stretch(rows, records["origin"].to_pylist(), languages, turn, reason, value, characters, tokens)

    def _take_turn(self, place: int, turn: Turn, stretch: _Stretch) -> None:
        seen = stretch.turn < 0
        if turn.languages is not None and stretch.languages is not None:
            seen &= np.isin(stretch.languages, turn.step.languages)
        before, changed = stretch.characters.copy(), np.zeros(len(seen), bool)
        own = self._columns[place].take(stretch.rows) if place in self._columns else None
        if turn.alters:
            changed = _after_change(place, own, seen, stretch)
        quantities = dict(_quantities(own)) if own is not None else {}
        if not turn.edits:
            quantities |= self._judge(place, turn, own, seen & (stretch.turn < 0), stretch)
        for language, mine in stretch.by_language(seen):
            tally = self._tallies[place].setdefault(language, Tally(turn.step.bounds_in(language)))
            left = mine & (stretch.turn < 0)
            tally.add(
                rows=mine.sum(),
                changed=(changed & mine).sum(),
                characters_in=before[mine].sum(),
                characters_out=stretch.characters[left].sum(),
                tokens_in=stretch.tokens[mine].sum(),
                tokens_out=stretch.tokens[left].sum(),
            )
            for name, values in quantities.items():
                tally.column(name).add(values[mine], stretch.characters[mine], stretch.tokens[mine])
            for index in np.flatnonzero(mine & (stretch.turn == place)).tolist():
                tally.dropped.add(str(stretch.reason[index]), stretch.origins[index])

    def _judge(self, place: int, turn: Turn, own: Any, seen: np.ndarray, stretch: _Stretch) -> dict[str, np.ndarray]:
        """Drops what the step drops. Gives the quantities that were found about the rows."""
        findings = self._findings.get(place)
        found = findings.take(stretch.rows) if findings else {}
        for index, values in found.items():
            self.found.update(f"{stretch.rows[index]} {json.dumps(values, default=str)}\n".encode())
        judge = turn.operator.judge
        if judge is None:
            return {}
        nothing = dict.fromkeys(findings.names) if findings else {}
        indices = np.flatnonzero(seen)
        rows = own.take(indices).to_pylist() if own is not None else [{}] * len(indices)
        if turn.step.by_language and stretch.languages is not None:
            languages = stretch.languages[indices].tolist()
            rows = [{**row, "language": language} for row, language in zip(rows, languages, strict=True)]
        for index, values in zip(indices.tolist(), rows, strict=True):
            verdict = judge({**values, **found.get(index, nothing)} if findings else values, turn.step)
            if verdict is not None:
                stretch.drop(index, place, *verdict)
        return {name: _found(found, name, len(seen)) for name in turn.step.bounds() if name in nothing}

    def _count_living(self, stretch: _Stretch) -> None:
        for language in [] if stretch.languages is None else np.unique(stretch.languages).tolist():
            mine = (stretch.languages == language) & (stretch.turn < 0)
            entry = self._alive.setdefault(language, [0, 0])
            entry[0] += int(mine.sum())
            entry[1] += int(stretch.characters[mine].sum())


def _after_change(place: int, own: Any, seen: np.ndarray, stretch: _Stretch) -> np.ndarray:
    """Takes over the lengths that a change left, and drops what it left unusable. Gives which rows were changed."""
    changed = own[".changed"].to_numpy() & seen
    stretch.characters[changed] = own[".characters"].to_numpy()[changed]
    for index in np.flatnonzero(changed & own[".unusable"].is_valid().to_numpy()).tolist():
        stretch.drop(index, place, own[".unusable"][index].as_py(), None)
    return np.asarray(changed)


def _single(path: str) -> list[str]:
    """The columns with one value a record; lists and bytes, such as signatures, are for `gather` alone."""
    import pyarrow as pa
    from pyarrow import parquet

    several = (pa.types.is_nested, pa.types.is_binary)
    return [field.name for field in parquet.read_schema(path) if not any(found(field.type) for found in several)]


def _quantities(own: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The columns that are numbers, and no hashes."""
    import pyarrow as pa

    for name in own.column_names:
        column, kind = own[name], own[name].type
        if name.startswith(".") or pa.types.is_uint64(kind):
            continue
        if pa.types.is_boolean(kind):
            column, kind = column.cast(pa.uint8()), pa.uint8()
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            yield name, column.cast(pa.float64()).to_numpy()


def _found(found: dict[int, dict[str, Any]], name: str, rows: int) -> np.ndarray:
    """A quantity that was found about some of the rows, NaN for the others."""
    values = np.full(rows, np.nan)
    for index, entry in found.items():
        if entry[name] is not None:
            values[index] = entry[name]
    return values
