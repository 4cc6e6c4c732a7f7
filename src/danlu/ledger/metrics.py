"""metrics.jsonl: one line a step, with a schema on its first line."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.files import atomic_file, drop_torn_line, read_json_lines

VERSION = 1


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the metrics: its unit, how ranks and micro-batches are reduced to it, and its meaning."""

    unit: str
    reduction: str
    meaning: str


class MetricsWriter:
    """Appends rows to a metrics file; each row is on disk when `write` returns.

    The first line of a new file holds the schema. A name that the schema lacks raises KeyError.
    """

    def __init__(self, path: Path, schema: dict[str, Metric]) -> None:
        self.path, self.schema = path, schema
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.is_file() or path.stat().st_size == 0
        if not fresh:
            drop_torn_line(path)
        self._handle = path.open("a", encoding="utf-8", newline="\n")
        if fresh:
            self._line({"version": VERSION, "schema": {name: asdict(metric) for name, metric in schema.items()}})

    def write(self, step: int, **values: Any) -> None:
        """Adds a row. Numbers that are not finite are written as null, as JSON has no name for them."""
        unknown = values.keys() - self.schema.keys()
        if unknown:
            raise KeyError(f"metrics without a schema: {sorted(unknown)}")
        self._line({"step": step, **{name: _plain(value) for name, value in values.items()}})

    def close(self) -> None:
        self._handle.close()

    def _line(self, row: dict[str, Any]) -> None:
        self._handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._handle.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file without its schema line; a torn last line is left out."""
    return [row for row in _lines(path) if "schema" not in row]


def read_schema(path: Path) -> dict[str, Metric]:
    """The columns that the file's first line names."""
    first = next(iter(_lines(path)), {})
    return {name: Metric(**fields) for name, fields in first.get("schema", {}).items()}


def cut_back(path: Path, step: int) -> None:
    """Removes the rows after `step`, so that a resumed run writes them once."""
    if not path.is_file():
        return
    kept = [row for row in _lines(path) if row.get("step", step) <= step]
    with atomic_file(path) as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_json_lines(path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
