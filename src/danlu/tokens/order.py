"""The order of training as a pure function: which example of which source is at a position, with no arrays kept.

A position is a number of examples consumed. Sources are mixed by closed-form counts, and a source's own order is a
permutation of its shards and of the examples inside each, new in every pass, so that positions that are near each
other lie in one shard of a source.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

_ROUNDS = 6
_WORD = (1 << 64) - 1


def mix64(values: np.ndarray) -> np.ndarray:
    """uint64 → uint64, one to one and well scattered (the finaliser of Steele, Lea, Flood 2014, SplitMix64)."""
    mixed = values.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permute(values: np.ndarray, size: int, *key: object) -> np.ndarray:
    """Where a permutation of 0 … size - 1, chosen by `key`, puts each of `values`; int64 → int64.

    A Feistel network on the next even power of two, walked along its cycles until inside `size`
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8 * _ROUNDS).digest()
    keys = np.frombuffer(digest, np.uint64)
    made = values.astype(np.uint64)
    outside = np.ones(len(made), bool)
    while outside.any():
        left, right = made[outside] >> half, made[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (mix64(right ^ round_key) & mask)
        made[outside] = (left << half) | right
        outside = made >= size
    return made.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Place:
    """An example's place: shard of the source and number inside that shard (with grades: rank in it)."""

    source: int
    shard: int
    index: int


class Passes:
    """One source's endless order: pass after pass over all its examples, each in a new order."""

    def __init__(self, sizes: Sequence[int], *key: object) -> None:
        self.sizes, self.key = list(sizes), key
        self.total = sum(self.sizes)
        self._shards = lru_cache(maxsize=2)(self._shard_order)

    def places(self, start: int, count: int) -> list[tuple[int, int]]:
        """(shard, index) of the examples start … start + count - 1 of the endless order."""
        found: list[tuple[int, int]] = []
        while len(found) < count:
            number, at = divmod(start + len(found), self.total)
            order, ends = self._shards(number)
            slot = bisect_right(ends, at)
            shard, end = order[slot], ends[slot]
            inside = np.arange(at, min(end, at + count - len(found))) - (end - self.sizes[shard])
            where = permute(inside, self.sizes[shard], *self.key, "pass", number, "shard", shard)
            found += [(shard, index) for index in where.tolist()]
        return found

    def _shard_order(self, number: int) -> tuple[list[int], list[int]]:
        order = permute(np.arange(len(self.sizes)), len(self.sizes), *self.key, "pass", number).tolist()
        return order, list(accumulate(self.sizes[shard] for shard in order))


@dataclass(frozen=True, slots=True)
class Mixture:
    """A cycle in which source s comes counts[s] times, as evenly as whole numbers allow.

    Item j of source s is due at (j + 1/2) / counts[s] of the cycle, and items come in the order in which they are due;
    so after any number of positions each source is within one half times the number of sources of its exact share.
    """

    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)

    def slots(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, item of that source) at the positions start … start + count - 1 of one cycle; int64 [count] each."""
        firsts, source, item = self._due(start, count)
        here = slice(start - sum(firsts), start - sum(firsts) + count)
        return source[here], item[here]

    def before(self, position: int) -> list[int]:
        """How often each source comes in the first `position` positions of endless cycles."""
        cycles, at = divmod(position, self.total)
        firsts, source, _ = self._due(at, 1)
        inside = np.bincount(source[: at - sum(firsts)], minlength=len(self.counts)).tolist()
        return [cycles * of + first + more for of, first, more in zip(self.counts, firsts, inside, strict=True)]

    def _due(self, start: int, count: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """All items that may fall on these positions, in order, and how many of each source come before them."""
        margin = len(self.counts) / 2 + 2
        low, high = (start - margin) / self.total, (start + count + margin) / self.total
        firsts = [min(of, max(0, int(of * low))) for of in self.counts]
        lasts = [min(of, int(of * high) + 2) for of in self.counts]
        source = np.repeat(np.arange(len(firsts)), np.subtract(lasts, firsts))
        item = np.concatenate([np.arange(*ends) for ends in zip(firsts, lasts, strict=True)])
        order = np.lexsort((source, (2 * item + 1) / (2 * np.array(self.counts)[source])))
        return firsts, source[order], item[order]


@dataclass(frozen=True, slots=True)
class Grades:
    """A source's examples in bands from easy to hard: how many of each shard, and when in a pass a band opens."""

    sizes: list[list[int]]
    """[band][shard]."""
    opens: list[float]
    """[band]: the share of a pass after which its examples may come; rising, the first 0."""
    passes: int | None = None
    """So many passes from the first are ordered, and later ones even; None: all are ordered."""


class GradedPasses:
    """One source's endless order, easy before hard: pass after pass over all its examples, each exactly once.

    At any time examples are drawn evenly from what is left of the open bands; when all is shown before the next band
    is due, that one opens early. Places are (shard, rank in it from easy to hard).
    """

    def __init__(self, grades: Grades, *key: object) -> None:
        totals = [sum(band) for band in grades.sizes]
        whole = [sum(shard) for shard in zip(*grades.sizes, strict=True)]
        self.total, self._passes = sum(totals), grades.passes
        # All bands have one order of shards, so that they stay near each other.
        self._bands = [Passes(band, *key) for band in grades.sizes]
        self._even = Passes(whole, *key)
        self._first = np.cumsum([[0] * len(whole), *grades.sizes], axis=0)
        self._segments = list(_segments(totals, grades.opens))

    def places(self, start: int, count: int) -> list[tuple[int, int]]:
        """(shard, rank) of the examples start … start + count - 1 of the endless order."""
        found: list[tuple[int, int]] = []
        while len(found) < count:
            number, at = divmod(start + len(found), self.total)
            if self._passes is not None and number >= self._passes:
                return found + self._even.places(start + len(found), count - len(found))
            slot = bisect_right(self._segments, at, key=lambda segment: segment.start) - 1
            found += self._inside(self._segments[slot], number, at, count - len(found))
        return found

    def _inside(self, segment: _Segment, number: int, at: int, count: int) -> list[tuple[int, int]]:
        """As `places`, from `at` in pass `number` up to the end of a segment at most."""
        at -= segment.start
        bands, items = segment.mixture.slots(at, min(count, segment.mixture.total - at))
        found = np.empty((len(bands), 2), np.int64)
        for band in np.unique(bands).tolist():
            mine = np.flatnonzero(bands == band)
            first = number * self._bands[band].total + segment.before[band] + int(items[mine[0]])
            found[mine] = self._bands[band].places(first, len(mine))
            found[mine, 1] += self._first[band, found[mine, 0]]
        return [(shard, rank) for shard, rank in found.tolist()]


def _segments(totals: Sequence[int], opens: Sequence[float]) -> Iterator[_Segment]:
    """The stretches of a pass in which the same bands are open; together they take every band's total."""
    left, at = list(totals), 0
    for opened, end in enumerate([*opens[1:], 1.0], 1):
        length = min(round(end * sum(totals)) - at, sum(left[:opened]))
        if length <= 0:
            continue
        counts = _apportioned(length, left[:opened]) + [0] * (len(left) - opened)
        yield _Segment(at, Mixture(tuple(counts)), [of - here for of, here in zip(totals, left, strict=True)])
        left = [here - taken for here, taken in zip(left, counts, strict=True)]
        at += length


def _apportioned(total: int, parts: Sequence[int]) -> list[int]:
    """Whole numbers that sum to `total` in proportion to `parts`, by largest remainders; none is above its part."""
    whole = sum(parts)
    counts = [total * part // whole for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda at: (-(total * parts[at] % whole), at))
    for at in by_remainder[: total - sum(counts)]:
        counts[at] += 1
    return counts


@dataclass(frozen=True, slots=True)
class _Segment:
    """From position `start` on, sources (or bands) mix as `mixture`; each had come `before` times until then."""

    start: int
    mixture: Mixture
    before: list[int]


class Order:
    """The whole order: sources of the given shard sizes, mixed by weights.

    `weights` are passes over each source in one epoch (1: every example once, 2: twice, 0.5: every other time half of
    it), in segments (from position, weights); the first starts at 0. All orders follow from `seed`. A source with
    `grades` goes from easy to hard, and its places are ranks in the shard by score.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        segments: Sequence[tuple[int, Sequence[float]]],
        seed: int,
        grades: Sequence[Grades | None] = (),
    ) -> None:
        keys = [("seed", seed, "source", number) for number in range(len(sizes))]
        graded = grades or [None] * len(sizes)
        self._passes: list[Passes | GradedPasses] = [
            Passes(of, *key) if bands is None else GradedPasses(bands, *key)
            for of, bands, key in zip(sizes, graded, keys, strict=True)
        ]
        if [source.total for source in self._passes] != [sum(of) for of in sizes]:
            raise ValueError("the grades are of other shards")
        self._segments: list[_Segment] = []
        for start, weights in segments:
            counts = tuple(
                max(round(weight * source.total), 1 if weight and source.total else 0)
                for weight, source in zip(weights, self._passes, strict=True)
            )
            if not any(counts) and any(source.total for source in self._passes):
                raise ValueError(f"from position {start} on no source has a weight")
            before = self._before(start) if self._segments else [0] * len(counts)
            self._segments.append(_Segment(start, Mixture(counts), before))

    @property
    def epoch(self) -> int:
        """Positions in one epoch of the first segment's weights."""
        return self._segments[0].mixture.total

    def places(self, start: int, count: int) -> list[Place]:
        """The examples at positions start … start + count - 1."""
        found: list[Place] = []
        while len(found) < count:
            found += self._places(start + len(found), count - len(found))
        return found

    def _places(self, start: int, count: int) -> list[Place]:
        """As `places`, up to the end of a cycle or segment at most."""
        number = self._segment(start)
        segment = self._segments[number]
        cycle, at = divmod(start - segment.start, segment.mixture.total)
        count = min(count, segment.mixture.total - at)
        if number + 1 < len(self._segments):
            count = min(count, self._segments[number + 1].start - start)
        sources, items = segment.mixture.slots(at, count)
        found: list[Place | None] = [None] * count
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            first = segment.before[source] + cycle * segment.mixture.counts[source] + int(items[mine[0]])
            for slot, place in zip(mine.tolist(), self._passes[source].places(first, len(mine)), strict=True):
                found[slot] = Place(source, *place)
        return [place for place in found if place is not None]

    def _segment(self, position: int) -> int:
        return bisect_right([segment.start for segment in self._segments], position) - 1

    def _before(self, position: int) -> list[int]:
        last = self._segments[-1]
        since = last.mixture.before(position - last.start)
        return [before + more for before, more in zip(last.before, since, strict=True)]


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same positions as sorted ranges that do not touch."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            start, end = merged[-1][0], max(end, merged.pop()[1])
        if end > start:
            merged.append((start, end))
    return merged
