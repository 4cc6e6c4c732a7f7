"""Gathering in stages: each is one function called many times, on what the stages before it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.ledger.files import atomic_file
from danlu.ledger.tasks import Task

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering

Call = dict[str, Any]
PART = 40  # bits of a place below the number of the part: (part << PART) + row is one number for a record


class Stages:
    """Runs stages in a gathering's folder."""

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self._written: set[str] = set()

    def files(self, name: str, count: int) -> list[str]:
        """Paths for as many files."""
        return [str(self._gathering.folder / f"{name}-{index:05d}") for index in range(count)]

    def run(self, title: str, function: Callable[..., Any], calls: list[Call], *outputs: str) -> list[Any]:
        """The results of all calls; `outputs` are those of their arguments that are files to be written."""
        tasks = []
        for index, call in enumerate(calls):
            written = [call[name] for name in outputs]
            self._written.update(written)
            tasks.append(Task(f"{title} {index}", function, call, outputs=[Path(file) for file in written]))
        return self._gathering.run(tasks, title)

    def keep(self, findings: list[str]) -> None:
        """Removes all that was written for other stages alone."""
        for file in self._written.difference(findings):
            Path(file).unlink(missing_ok=True)


def write_findings(
    out: str, part: int, places: np.ndarray, columns: Mapping[str, Any], meta: dict[str, Any] | None = None
) -> None:
    """Writes what was found about records of a part, which rise; `meta` is JSON beside it."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"task": np.full(len(places), part, np.int32), "row": rows_of(places), **columns})
    with atomic_file(Path(out), "wb") as handle:
        parquet.write_table(table.replace_schema_metadata({"danlu": json.dumps(meta or {})}), handle)


def place_range(part: int) -> tuple[int, int]:
    """The places of a part's records."""
    return part << PART, (part + 1) << PART


def places_of(part: int, rows: np.ndarray) -> np.ndarray:
    return np.uint64(part << PART) + rows.astype(np.uint64)


def rows_of(places: np.ndarray) -> np.ndarray:
    return (places & np.uint64((1 << PART) - 1)).astype(np.int64)


def parts_of(places: np.ndarray) -> np.ndarray:
    return (places >> np.uint64(PART)).astype(np.int64)
