"""Which documents share a micro-batch: packing of one step's documents, never across steps."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MICRO_BATCH_TOKENS = 400
"""What a micro-batch costs besides its tokens, in tokens: weights are read and their gradients added. So much makes
two rows of 4,096 4.6% faster than one at 7B, and 24 of 1,024 1.6% faster than 12 at 1B, as on an H200 (docs/log.md).
"""


def micro_batch_cost(tokens: int, floor: int) -> int:
    """What a micro-batch of so many tokens costs, in tokens, where none costs less than `floor` of them."""
    return max(tokens, floor) + MICRO_BATCH_TOKENS


@dataclass(frozen=True, slots=True)
class Room:
    """What a micro-batch holds."""

    rows: int
    length: int
    """T, tokens of a row."""
    documents: int
    """Most documents for each row."""
    least: int
    """Documents of an item; it may need as many rows."""
    few_shapes: bool
    """Whether micro-batches have at most three different numbers of rows, as each is compiled by itself."""

    def fewer_rows(self) -> Iterable[int]:
        """What the last micro-batches of a step may have instead of `rows`, fewest first: a quarter or half, or any."""
        if self.few_shapes:
            return sorted({max(self.least, -(-self.rows // part)) for part in (4, 2)} - {self.rows})
        return range(self.least, self.rows)


def micro_batches(sizes: Sequence[int], room: Room, world: int) -> list[tuple[int, list[int]]]:
    """Packs items of so many tokens into a step's micro-batches: (rows, numbers of its items) of each.

    There are a multiple of `world`; each rank takes every world-th. All have `room.rows` rows but for the last one of
    each rank: they have equally many, the fewest that hold what is left.
    """

    def packed(items: Sequence[int], rows: int) -> list[list[int]]:
        bins = best_fit([sizes[item] for item in items], rows * room.length, rows * room.documents // room.least)
        return [[items[at] for at in one] for one in bins]

    bins = packed(range(len(sizes)), room.rows)
    full = max(0, len(bins) - 1) // world * world
    left = [item for one in bins[full:] for item in one]
    last, rows = bins[full:], room.rows
    for fewer in room.fewer_rows():
        if fewer * room.length * world < sum(sizes[item] for item in left):
            continue
        again = packed(left, fewer)
        if len(again) <= world:
            last, rows = again, fewer
            break
    last += [[] for _ in range(world - len(last))]
    return [*((room.rows, one) for one in bins[:full]), *((rows, one) for one in last)]


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
