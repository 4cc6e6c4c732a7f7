"""Records that say the same: found by hash, over all parts, a bucket of hashes at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.ledger.files import atomic_file
from danlu.ledger.tasks import Task
from danlu.text.records import Record, content_hash
from danlu.text.steps.basic import ExactDedupStep

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering
    from danlu.text.cleaning.live import LivePart

BUCKET_ROWS = 1 << 20  # hashes that one task holds at a time: about 150 MB with their order and their twins


def measure(records: list[Record], step: ExactDedupStep) -> dict[str, Any]:
    """`hash`: of the content."""
    return {"hash": np.array([content_hash(record) for record in records], np.uint64)}


def gather(gathering: Gathering, step: ExactDedupStep) -> list[Path]:
    """`twin` and `source`: where the first record that says the same comes from, for all but the first."""
    buckets = 1 + gathering.rows // BUCKET_ROWS
    found = [gathering.folder / f"twins-{bucket:05d}.parquet" for bucket in range(buckets)]
    tasks = [
        Task(
            f"twins {bucket}",
            find_twins,
            {"parts": gathering.parts, "bucket": bucket, "buckets": buckets, "out": str(path)},
            outputs=[path],
        )
        for bucket, path in enumerate(found)
    ]
    gathering.run(tasks, "find equals")
    return found


def judge(values: dict[str, Any], step: ExactDedupStep) -> tuple[str, Any] | None:
    """A record that an earlier one equals, with the earlier one's origin and source."""
    if values["twin"] is None:
        return None
    return "duplicate", {"twin": values["twin"], "source": values["source"]}


def find_twins(parts: list[LivePart], bucket: int, buckets: int, out: str) -> int:
    """Writes task, row and the first one's origin and source for each record of a bucket but the first of a content.

    Gives how many were found.
    """
    import pyarrow as pa
    from pyarrow import parquet

    hashes, tasks, rows = _bucket(parts, bucket, buckets)
    order = np.argsort(hashes, kind="stable")  # stable: the first of equals is the first in the order of the parts
    fresh = np.concatenate([[True], hashes[order][1:] != hashes[order][:-1]]) if len(order) else np.zeros(0, bool)
    first = order[np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))]
    again, first = order[~fresh], first[~fresh]
    by_place = np.argsort(again)
    again, first = again[by_place], first[by_place]
    twins = _origins(parts, tasks[first], rows[first])
    names = {part.number: part.source for part in parts}
    sources = pa.array([names[number] for number in tasks[first].tolist()], pa.string())
    table = pa.table(
        {"task": tasks[again], "row": rows[again], "twin": pa.array(twins, pa.string()), "source": sources}
    )
    with atomic_file(Path(out), "wb") as handle:
        parquet.write_table(table, handle)
    return len(again)


def _bucket(parts: list[LivePart], bucket: int, buckets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, parts' numbers and rows of the records in a bucket, in the order of reading."""
    found = [(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int64))]
    for part in parts:
        for rows, columns in part.columns(["hash"]):
            hashes = columns["hash"].to_numpy(zero_copy_only=False).astype(np.uint64)
            mine = np.flatnonzero(hashes % np.uint64(buckets) == bucket)
            found.append((hashes[mine], np.full(len(mine), part.number, np.int32), rows[mine]))
    hashes, tasks, rows = (np.concatenate([entry[index] for entry in found]) for index in range(3))
    return hashes, tasks, rows


def _origins(parts: list[LivePart], tasks: np.ndarray, rows: np.ndarray) -> list[str]:
    origins: list[str] = [""] * len(tasks)
    for part in parts:
        places = np.flatnonzero(tasks == part.number)
        wanted, order = np.unique(rows[places], return_inverse=True)
        named = part.origins(wanted)
        for place, index in zip(places.tolist(), order.tolist(), strict=True):
            origins[place] = named[index]
    return origins
