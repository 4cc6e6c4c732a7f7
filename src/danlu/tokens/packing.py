"""Which documents share a row: packing of one step's documents, never across steps."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int, limit: int) -> list[list[int]]:
    """Packs items into rows: the longest first, each into the fullest row where it fits (best-fit decreasing).

    `lengths` are at most `capacity`; a row takes at most `limit` items. Gives the items' numbers row by row.
    O(n log n) but for the shifting of one list.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row) of the rows that may take more, sorted
    for item in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        length = lengths[item]
        if length > capacity:
            raise ValueError(f"an item of {length} tokens does not fit rows of {capacity}")
        at = bisect_left(room, (length, -1))
        if at < len(room):
            free, row = room.pop(at)
            rows[row].append(item)
        else:
            free, row = capacity, len(rows)
            rows.append([item])
        if free > length and len(rows[row]) < limit:
            insort(room, (free - length, row))
    return rows


def best_fit_pairs(
    lengths: Sequence[tuple[int, int]], capacity: int, limit: int, rows: int
) -> list[list[list[tuple[int, int]]]]:
    """Packs pairs into groups of `rows` rows so that both items of a pair lie in one group.

    The longest pair comes first; it goes to the first group where both items fit. Gives groups of rows of
    (pair, 0 or 1).
    """
    groups: list[_Group] = []
    for pair in sorted(range(len(lengths)), key=lambda number: (-sum(lengths[number]), number)):
        if not any(group.take(pair, lengths[pair]) for group in groups):
            group = _Group(capacity, limit, rows)
            if not group.take(pair, lengths[pair]):
                raise ValueError(
                    f"a pair of {lengths[pair]} tokens does not fit {rows} rows of {capacity} with {limit} documents"
                )
            groups.append(group)
    return [[row for row in group.rows if row] for group in groups]


class _Group:
    def __init__(self, capacity: int, limit: int, rows: int) -> None:
        self.rows: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
        self._free, self._limit = [capacity] * rows, limit

    def take(self, pair: int, lengths: tuple[int, int]) -> bool:
        """Places both items, or neither."""
        longer = 0 if lengths[0] >= lengths[1] else 1
        first = self._fitting(lengths[longer])
        if first is None:
            return False
        self._place(first, (pair, longer), lengths[longer])
        second = self._fitting(lengths[1 - longer])
        if second is None:
            self.rows[first].pop()
            self._free[first] += lengths[longer]
            return False
        self._place(second, (pair, 1 - longer), lengths[1 - longer])
        return True

    def _fitting(self, length: int) -> int | None:
        """The fullest row with room."""
        open_rows = [
            (free, row) for row, free in enumerate(self._free) if free >= length and len(self.rows[row]) < self._limit
        ]
        return min(open_rows)[1] if open_rows else None

    def _place(self, row: int, item: tuple[int, int], length: int) -> None:
        self.rows[row].append(item)
        self._free[row] -= length
