"""The tasks that repeated lines are found by, in the order in which they run; records are known by places (see stages).

What each holds in memory: write_lines and count a stretch (see sorted_files), list_removed what is removed of one part.
"""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.kernels import mixed
from danlu.text.ops.sorted_files import distinct, fresh, hash_range, read_range, sorted_file
from danlu.text.ops.stages import place_range, places_of, rows_of, write_findings
from danlu.text.ops.units import units
from danlu.text.records import Document
from danlu.text.steps.duplicates import LineDedupStep

if TYPE_CHECKING:
    from danlu.text.cleaning.live import LivePart


def write_lines(part: LivePart, out: str) -> int:
    """Writes (hash of a line, place) once for each line of each record."""
    count = 0
    with sorted_file(out) as add:
        for rows, columns in part.columns(["lines"]):
            lines, places = _flat(columns["lines"], places_of(part.number, rows))
            found = distinct(np.stack([places, lines]))
            add(found[1], found[0])
            count += found.shape[1]
    return count


def count(
    lines: list[str], bucket: int, buckets: int, most: int, first: bool, shown: int, out: str
) -> list[tuple[int, int, int]]:
    """Writes (place, hash) where a line of the bucket is to go: wherever it stands in more than `most` records, or with
    `first` in all of them but the first. Returns (records, hash, first place) of those in most records."""
    hashes, places = read_range(lines, 2, *hash_range(bucket, buckets))
    starts = np.flatnonzero(fresh(hashes[None]))
    times = np.diff(starts, append=len(hashes))
    gone = np.repeat(times > most, times)
    if first:
        gone[starts] = False
    with sorted_file(out) as add:
        add(places[gone], hashes[gone])
    often = np.flatnonzero(times > most)
    found = zip(times[often].tolist(), hashes[starts[often]].tolist(), places[starts[often]].tolist(), strict=True)
    return nlargest(shown, found)


def show(part: LivePart, wanted: list[tuple[int, int]], step: dict[str, Any]) -> list[tuple[int, str]]:
    """(hash, line) for each (place, hash)."""
    settings = LineDedupStep(**step)
    places, hashes = np.array(wanted, np.uint64).T
    rows = rows_of(places)
    shown = []
    for row, text in part.texts(np.unique(rows)):
        found = units([Document(text)], settings)
        for line in hashes[rows == row]:
            at = int(np.flatnonzero(found.hashes == line)[0])
            shown.append((int(line), text[found.spans.start[at] : found.spans.end[at]].strip()))
    return shown


def list_removed(part: LivePart, removed: list[str], out: str, meta: dict[str, Any]) -> int:
    """Writes the findings of a part. Returns how many records lose a line."""
    import pyarrow as pa

    places, hashes = read_range(removed, 2, *place_range(part.number))
    records, starts = np.unique(places, return_index=True)
    wanted = hashes ^ mixed(places)
    left = np.ones(len(records))
    for rows, columns in part.columns(["lines", "sizes", "alone", "characters"]):
        own = places_of(part.number, rows)
        lines, of = _flat(columns["lines"], own)
        sizes, _ = _flat(columns["sizes"], own)
        alone, _ = _flat(columns["alone"], own)
        gone = np.isin(lines ^ mixed(of), wanted)
        gone &= ~_would_be_empty(np.searchsorted(own, of), alone.astype(np.int64), gone)
        lost = np.bincount(np.searchsorted(own, of[gone]), sizes[gone], len(own))
        at = np.flatnonzero(lost)
        left[np.searchsorted(records, own[at])] -= lost[at] / columns["characters"].to_numpy()[at]
    columns = {"removed": pa.ListArray.from_arrays(np.append(starts, len(places)), hashes), "left": left}
    write_findings(out, part.number, records, columns, meta)
    return len(records)


def _would_be_empty(record: np.ndarray, alone: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Which lines stand in messages that have nothing else than lines to remove: those stay (`line_dedup.edit`)."""
    _, message = np.unique(record << 32 | alone, return_inverse=True)
    stays = np.bincount(message, ~gone)
    return (alone > 0) & (stays[message] == 0)


def _flat(lists: Any, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All values of an arrow array of lists, and for each the place of its record."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.uint64), np.repeat(places, lengths)
