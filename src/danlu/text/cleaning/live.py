"""A part as a gathering step sees it: its columns, texts and origins, of the rows still alive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.text.cleaning.columns import STRETCH, ColumnReader
from danlu.text.cleaning.parts import Alterations, Part, Turn
from danlu.text.ops.contents import text_of
from danlu.text.records import Record


@dataclass(frozen=True, slots=True)
class LivePart:
    """`rows` and `characters` count all records of the part, dead ones too; `number` is the `task` of findings."""

    number: int
    rows: int
    characters: int
    part: Part
    turns: list[Turn]
    """The gathering step's turn, the last, and those before it."""
    verdicts: str

    @property
    def source(self) -> str:
        """What the source is called in folders and reports: "file:line" can stand in two sources."""
        return self.part.name.split("/")[1]

    def columns(self, names: list[str]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """(rows, {name: arrow array}) stretch by stretch: the step's own columns, of the rows that are alive when its
        turn comes and whose language it looks at. Without names it gives rows also to a step that measures nothing."""
        values = ColumnReader(self.turns[-1].columns, names) if names else None
        for rows in self._alive():
            table: Any = values.take(rows) if values else {}
            yield rows, {name: table[name].combine_chunks() for name in names}

    def records(self, rows: np.ndarray) -> Iterator[tuple[int, Record]]:
        """The given rows, which rise, as they are at the step's turn; a batch of them is in memory.

        It reads the part's files again, as fast as lines can be passed over.
        """
        altered = Alterations(self.part, self.turns)
        for found, records in self.part.batches_of(np.asarray(rows, np.int64)):
            yield from zip(found.tolist(), altered.apply(found, records), strict=True)

    def texts(self, rows: np.ndarray) -> Iterator[tuple[int, str]]:
        """As `records`, all that each says as one text."""
        return ((row, text_of(record)) for row, record in self.records(rows))

    def origins(self, rows: np.ndarray) -> list[str]:
        """ "file:line" of the given rows, which rise: by it a twin is named."""
        table = ColumnReader(self.part.records, ["origin"]).take(np.asarray(rows, np.int64))
        return list(table["origin"].to_pylist())

    def _alive(self) -> Iterator[np.ndarray]:
        """The rows that the step looks at, a stretch at a time."""
        own = self.turns[-1]
        verdicts = ColumnReader(self.verdicts, ["turn"])
        lost = ColumnReader(own.columns, [".unusable"]) if own.operator.change else None
        languages = ColumnReader(own.languages.columns) if own.languages else None
        for start in range(0, self.rows, STRETCH):
            rows = np.arange(start, min(start + STRETCH, self.rows))
            alive = verdicts.take(rows).column(0).to_numpy() < 0
            if lost is not None:
                alive &= lost.take(rows).column(0).is_null().to_numpy()
            if languages is not None and own.languages is not None:
                values = languages.take(rows).to_pylist()
                alive &= np.isin(own.languages.of(values), own.step.languages)
            yield rows[alive]
