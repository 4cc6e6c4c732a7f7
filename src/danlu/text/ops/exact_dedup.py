"""Records that say the same: found by hash, over all tasks, a bucket of hashes at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.files import atomic_file
from danlu.text.records import Record, content_hash
from danlu.text.steps.basic import ExactDedupStep

BUCKET_ROWS = 1 << 22  # hashes that one task holds at a time: about 200 MB with their order
HASH = "exact_dedup.hash"


def measure(records: list[Record], step: ExactDedupStep) -> dict[str, list[Any]]:
    """`hash`: of the content."""
    return {"hash": [np.uint64(content_hash(record)) for record in records]}


def judge(values: dict[str, Any], step: ExactDedupStep) -> tuple[str, Any] | None:
    """A record that an earlier one equals, with the earlier one's origin."""
    return ("duplicate", values["twin"]) if values.get("twin") is not None else None


def find_twins(columns: list[str], bucket: int, buckets: int, out: str) -> int:
    """Writes task, row and the first one's origin for each record of a bucket that is not the first of its content.

    `columns` are the tasks' files of measured values, in order. Returns how many were found.
    """
    import pyarrow as pa
    from pyarrow import parquet

    parts = [_hashes(path, task, bucket, buckets) for task, path in enumerate(columns)]
    hashes, tasks, rows = (np.concatenate([part[index] for part in parts]) for index in range(3))
    order = np.argsort(hashes, kind="stable")  # stable: the first of equals is the first in the order of the tasks
    fresh = np.concatenate([[True], hashes[order][1:] != hashes[order][:-1]]) if len(order) else np.zeros(0, bool)
    first = order[np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))]
    again, first = order[~fresh], first[~fresh]
    by_place = np.argsort(again)
    again, first = again[by_place], first[by_place]
    twins = _origins(columns, tasks[first], rows[first])
    table = pa.table({"task": tasks[again], "row": rows[again], "twin": pa.array(twins, pa.string())})
    with atomic_file(Path(out), "wb") as handle:
        parquet.write_table(table, handle)
    return len(again)


def read_twins(files: list[str], task: int) -> dict[int, str]:
    """{row: origin of the first} of one task."""
    from pyarrow import parquet

    found: dict[int, str] = {}
    for file in files:
        table = parquet.read_table(file, columns=["row", "twin"], filters=[("task", "==", task)])
        found.update(zip(table["row"].to_pylist(), table["twin"].to_pylist(), strict=True))
    return found


def _hashes(path: str, task: int, bucket: int, buckets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of a bucket in one task, the task's number and the rows."""
    from pyarrow import parquet

    found, start = [(np.zeros(0, np.uint64), np.zeros(0, np.int64))], 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 16, columns=[HASH]):
            hashes = batch.column(0).to_numpy(zero_copy_only=False)
            rows = np.flatnonzero(hashes % np.uint64(buckets) == bucket)
            found.append((hashes[rows], rows + start))
            start += batch.num_rows
    hashes, rows = (np.concatenate([part[index] for part in found]) for index in range(2))
    return hashes, np.full(len(rows), task, np.int32), rows


def _origins(columns: list[str], tasks: np.ndarray, rows: np.ndarray) -> list[str]:
    from pyarrow import parquet

    origins: list[str] = [""] * len(tasks)
    for task in np.unique(tasks):
        places = np.flatnonzero(tasks == task)
        start = 0
        with parquet.ParquetFile(columns[task]) as file:
            for batch in file.iter_batches(1 << 16, columns=["origin"]):
                inside = places[(rows[places] >= start) & (rows[places] < start + batch.num_rows)]
                for place, origin in zip(inside, batch.column(0).take(rows[inside] - start).to_pylist(), strict=True):
                    origins[place] = origin
                start += batch.num_rows
    return origins
