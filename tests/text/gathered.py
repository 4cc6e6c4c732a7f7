"""Gathering over texts in memory, cut into parts at will."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from danlu.ledger.tasks import Task
from danlu.text.ops.contents import text_of
from danlu.text.ops.table import OPERATORS
from danlu.text.records import Document, Record
from danlu.text.steps.base import StepSettings

STRETCH = 16  # rows, so that there are many


@dataclass
class MemoryPart:
    """What a gathering step sees of a part, with every record alive but those of `dead`."""

    number: int
    first: int
    all: list[Record]
    step: Any
    dead: frozenset[int] = frozenset()
    source: str = "memory"

    @property
    def rows(self) -> int:
        return len(self.all)

    def columns(self, names: list[str]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        measure = OPERATORS[self.step.op].measure
        for start in range(0, len(self.all), STRETCH):
            rows = np.array([r for r in range(start, min(start + STRETCH, self.rows)) if r not in self.dead], np.int64)
            columns = measure([self.all[row] for row in rows], self.step) if measure and names else {}
            yield rows, {name: pa.array(columns[name], from_pandas=True) for name in names}

    def texts(self, rows: np.ndarray) -> Iterator[tuple[int, str]]:
        return ((row, text_of(self.all[row])) for row in rows.tolist())

    def origins(self, rows: np.ndarray) -> list[str]:
        assert rows.tolist() == sorted(rows.tolist())
        return [str(self.first + row) for row in rows.tolist()]


@dataclass
class MemoryGathering:
    parts: list[MemoryPart]
    folder: Path
    run: Callable[[list[Task], str], list[Any]]


def run(tasks: list[Task], title: str) -> list[Any]:
    """The results as they come back from the ledger's file."""
    results = []
    for task in tasks:
        results.append(json.loads(json.dumps(task.function(**task.arguments))))
        assert all(path.exists() for path in task.outputs)
    return results


def gather(
    texts: list[str] | list[Record], step: StepSettings, folder: Path, size: int = 1000, dead: set[int] | None = None
) -> dict[int, dict[str, Any]]:
    """{place of a record among all: what was found about it}, with `size` records a part."""
    records = [Document(text) if isinstance(text, str) else text for text in texts]
    parts = [
        MemoryPart(
            number,
            start,
            records[start : start + size],
            step,
            frozenset(row - start for row in dead or () if row >= start),
        )
        for number, start in enumerate(range(0, len(records), size))
    ]
    folder.mkdir(exist_ok=True, parents=True)
    files = OPERATORS[step.op].gather(MemoryGathering(parts, folder, run), step)  # type: ignore[arg-type, misc]
    assert sorted(files) == sorted(folder.iterdir()), "what was for later tasks is gone"
    found: dict[int, dict[str, Any]] = {}
    for file in files:
        rows = parquet.read_table(file).to_pylist()
        assert [row["row"] for row in rows] == sorted({row["row"] for row in rows})
        found |= {row["task"] * size + row["row"]: row for row in rows}
    return found


def meta_of(folder: Path) -> dict[str, Any]:
    """What is written beside the findings."""
    return json.loads(parquet.read_schema(min(folder.iterdir())).metadata[b"danlu"])
