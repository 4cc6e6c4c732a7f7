"""Measured values that go on with the records that stay: by them `where` chooses and a curriculum orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from danlu.ledger.errors import UserError
from danlu.text.cleaning.columns import ColumnReader
from danlu.text.cleaning.parts import Turn
from danlu.text.records import Record

_DIGITS = 6  # of a value; what is kept is read by people too


def check_scores(names: Sequence[str], turns: Sequence[Turn]) -> None:
    """Raises UserError for a name ("STEP" or "STEP.COLUMN") whose step measures no such number."""
    for name in names:
        op, _, column = name.partition(".")
        there = {found for turn in turns if turn.step.called == op and _has(turn) for found in _numbers(turn.columns)}
        if any(turn.step.called == op for turn in turns) and not (column in there if column else there):
            raise UserError(
                f"keep_scores: the step {op} measures no number called {column or op!r}",
                do=f"choose from {', '.join(f'{op}.{found}' for found in sorted(there)) or 'another step'}",
            )


class KeptScores:
    """Writes what was measured into `meta` under "STEP.COLUMN"; asked for in rising order."""

    def __init__(self, names: Sequence[str], turns: Sequence[Turn]) -> None:
        self._readers: list[tuple[str, ColumnReader]] = []
        for turn in turns:
            wanted = _wanted(turn, names) if _has(turn) else []
            if wanted:
                self._readers.append((turn.step.called, ColumnReader(turn.columns, wanted)))

    def onto(self, rows: np.ndarray, records: list[Record]) -> list[Record]:
        """The records of `rows` with what was measured of each; what was not measured of one is left out."""
        if not self._readers:
            return records
        found: list[dict[str, Any]] = [{} for _ in records]
        for op, reader in self._readers:
            for scores, values in zip(found, reader.take(rows).to_pylist(), strict=True):
                scores |= {f"{op}.{name}": _plain(value) for name, value in values.items() if value is not None}
        return [
            replace(record, meta={**record.meta, **scores}) if scores else record
            for record, scores in zip(records, found, strict=True)
        ]


def _has(turn: Turn) -> bool:
    return bool(turn.columns) and not turn.edits


def _wanted(turn: Turn, names: Sequence[str]) -> list[str]:
    op = turn.step.called
    return [column for column in _numbers(turn.columns) if op in names or f"{op}.{column}" in names]


def _numbers(path: str) -> list[str]:
    """The columns that hold a number a record, hashes left out, and those of which no record has a value."""
    import pyarrow as pa
    from pyarrow import parquet

    sorts = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return [
        field.name
        for field in parquet.read_schema(path)
        if any(sort(field.type) for sort in sorts) and not pa.types.is_uint64(field.type) and field.name[0] != "."
    ]


def _plain(value: Any) -> int | float:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else int(value)
