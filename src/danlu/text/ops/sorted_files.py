"""Numbers that cross parts: one task writes what it has in sorted stretches, another reads a range of keys from all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.files import atomic_file

STRETCH = 1 << 20  # rows that are sorted in memory, and that a bucket should have: about 100 MB with their order
KEYS = 1 << 64


@contextmanager
def sorted_file(path: str) -> Iterator[Callable[..., None]]:
    """Gives `add(keys, *columns)` for uint64 arrays of one length; rows of equal key keep their order."""
    waiting: list[np.ndarray] = []

    def add(*columns: np.ndarray) -> None:
        if len(columns[0]):
            waiting.append(np.stack(columns))
        if sum(rows.shape[1] for rows in waiting) >= STRETCH:
            write()

    def write() -> None:
        rows = np.concatenate(waiting, axis=1)
        waiting.clear()
        order = np.argsort(rows[0], kind="stable")
        save(handle, np.take(rows, order, axis=1))  # in C order, unlike rows[:, order]

    with atomic_file(Path(path), "wb") as handle:
        yield add
        if waiting:
            write()


def save(handle: Any, array: np.ndarray) -> None:
    """Writes an array in C order as np.save does, which does not say that a disk is full."""
    np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(array))
    handle.write(array.data)


def read_range(paths: Iterable[str], columns: int, low: int = 0, high: int = KEYS) -> np.ndarray:
    """[columns, rows] of all rows whose key is in [low, high), sorted by key; equal keys in the order of the files."""
    found = [np.zeros((columns, 0), np.uint64)]
    for path in paths:
        for rows in stretches(path):
            found.append(np.array(rows[:, _before(rows[0], low) : _before(rows[0], high)]))
    rows = np.concatenate(found, axis=1)
    return rows[:, np.argsort(rows[0], kind="stable")]


def stretches(path: str) -> Iterator[np.ndarray]:
    """The sorted arrays of a file, mapped."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as handle:
        while handle.tell() < size:
            np.lib.format.read_magic(handle)
            shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
            start = handle.tell()
            yield np.memmap(path, dtype, "r", start, shape)
            handle.seek(start + int(np.prod(shape)) * dtype.itemsize)


def hash_range(bucket: int, buckets: int) -> tuple[int, int]:
    """The part of all 64-bit keys that is a bucket's own."""
    return bucket * KEYS // buckets, (bucket + 1) * KEYS // buckets


def distinct(rows: np.ndarray) -> np.ndarray:
    """Columns of numbers, sorted by the first, then the second and so on, each once."""
    rows = np.take(rows, np.lexsort(rows[::-1]), axis=1)
    return rows[:, fresh(rows)]


def fresh(rows: np.ndarray) -> np.ndarray:
    """Which of sorted columns of numbers differ from those before them."""
    found = np.ones(rows.shape[1], bool)
    found[1:] = (rows[:, 1:] != rows[:, :-1]).any(0)
    return found


def _before(keys: np.ndarray, key: int) -> int:
    """How many keys are smaller."""
    return int(np.searchsorted(keys, np.uint64(key))) if key < KEYS else len(keys)
