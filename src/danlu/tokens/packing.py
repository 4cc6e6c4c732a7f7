"""Which documents share a micro-batch: packing of one step's documents, never across steps."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int, limit: int) -> list[list[int]]:
    """Packs items into bins: the longest first, each into the fullest bin where it fits (best-fit decreasing).

    `lengths` are at most `capacity`; a bin takes at most `limit` items. Gives the items' numbers bin by bin.
    O(n log n) but for the shifting of one list.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, bin) of the bins that may take more, sorted
    for item in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        length = lengths[item]
        if length > capacity:
            raise ValueError(f"an item of {length} tokens does not fit {capacity}")
        at = bisect_left(room, (length, -1))
        if at < len(room):
            free, number = room.pop(at)
            bins[number].append(item)
        else:
            free, number = capacity, len(bins)
            bins.append([item])
        if free > length and len(bins[number]) < limit:
            insort(room, (free - length, number))
    return bins
