"""The n-grams of test items, sorted by hash: built in bounded memory, mapped by all who look into them.

The files take about 16 bytes for each n-gram: its hash, an item it stands in, and 16 to 32 bits of a filter that says
"no" to nearly all n-grams that are not there. Building takes a stretch (see sorted_files) and some 200 bytes an item.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.counts import Counts
from danlu.ledger.files import atomic_file
from danlu.text.kernels import Codes, ngrams, rolling_hashes
from danlu.text.ops.evaluation_items import Item, items
from danlu.text.ops.sorted_files import distinct, hash_range, read_range, sorted_file
from danlu.text.ops.units import letters_before
from danlu.text.steps.duplicates import DecontaminateStep

ITEMS = 16  # that one n-gram can name; a phrase that stands in more is of the test's form
TOO_SHORT = "too short to check"
_BATCH = 1 << 19  # characters
_SLICE_BYTES = 1 << 24  # of hashes that are mapped at a time
_SLICES = 64  # in which the index is sorted, one after the other


@dataclass(frozen=True, slots=True)
class IndexFiles:
    """`grams` and `owners`: the hash of an n-gram and the number of its item; `filter` over the hashes; `short`: the
    same for items that are matched whole; `names`: test and place of each item, and how many n-grams it has."""

    grams: str
    owners: str
    filter: str
    short: str
    names: str


@dataclass(frozen=True, slots=True)
class Matches:
    """Which runs of words stand in tests: the first word, how many, the hash, the item. One for each item."""

    words: np.ndarray
    lengths: np.ndarray
    hashes: np.ndarray
    items: np.ndarray

    def only(self, which: np.ndarray) -> Matches:
        return Matches(self.words[which], self.lengths[which], self.hashes[which], self.items[which])

    def of(self, item: int) -> Matches:
        """Those with an item, each of its n-grams where it stands first."""
        own = self.only(self.items == item)
        return own.only(np.unique(own.hashes, return_index=True)[1])

    def spans(self, codes: Codes) -> np.ndarray:
        """[spans, 2]: the characters under the matches."""
        return merged(codes.words.start[self.words], codes.words.end[self.words + self.lengths - 1])


def merged(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[spans, 2] in order, those that meet or overlap as one."""
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    apart = starts[1:] > ends[:-1]
    return np.stack([starts[np.append(True, apart)], ends[np.append(apart, True)]], axis=1)


def write_index(step: dict[str, Any], unsorted: str, **files: str) -> dict[str, Any]:
    """Writes the index of a step's tests.

    Returns "lengths", in words, of items that are matched whole; and "counts" of items, of those that are too short to
    check, and of rows that could not be read.
    """
    settings, to, counts, names = DecontaminateStep(**step), IndexFiles(**files), Counts(), _Names()
    written, lengths = 0, set[int]()
    with sorted_file(unsorted) as add_gram, sorted_file(to.short) as add_short:
        for test in settings.tests:
            for batch in _batches(items(test, counts)):
                found = _Batch(batch, len(names.where), settings)
                add_gram(*found.grams)
                add_short(*found.short)
                names.add(batch, found.sizes)
                written += found.grams.shape[1]
                lengths.update(found.lengths)
                counts.add("items", times=len(batch))
                for at in np.flatnonzero(found.sizes == 0).tolist():
                    counts.add(TOO_SHORT, f"{batch[at].test} {batch[at].where}")
    names.write(to.names)
    _write_sorted(unsorted, written, to)
    return {"lengths": sorted(lengths), "counts": counts.as_dict()}


class Index:
    """Looks n-grams up in an index that was written."""

    def __init__(self, files: IndexFiles, ngram: int, lengths: list[int]) -> None:
        from pyarrow import parquet

        self._ngram, self._lengths = ngram, lengths
        grams = _mapped(files.grams, np.uint64)
        self._grams = _Table(grams, _mapped(files.owners, np.uint32), _mapped(files.filter, np.uint8))
        short, owners = read_range([files.short], 2)
        self._short = _Table(short, owners, _filter(len(short), [short]))
        self.names = parquet.read_table(files.names)
        self.sizes = self.names["ngrams"].to_numpy()
        """How many n-grams each item has."""

    def find(self, codes: Codes) -> Matches:
        """All matches in the records of a batch, in no order."""
        hashes, bounds = codes.folded_word_hashes, codes.words.bounds
        found = [self._grams.find(hashes, bounds, self._ngram)]
        found += [self._short.find(hashes, bounds, length) for length in self._lengths]
        return Matches(*map(np.concatenate, zip(*found, strict=True)))


@dataclass(frozen=True, slots=True)
class _Table:
    """Sorted hashes, the item of each, and the filter that is asked first."""

    hashes: np.ndarray
    owners: np.ndarray
    filter: np.ndarray

    def find(self, hashes: np.ndarray, bounds: np.ndarray, length: int) -> tuple[np.ndarray, ...]:
        """The first word, the length, the hash and the item of each run of so many words that is here."""
        grams = rolling_hashes(hashes, length)
        byte, bit = _bits(self.filter, grams)
        at = np.flatnonzero(self.filter.take(byte) & bit)
        at = at[at + length <= bounds[np.searchsorted(bounds, at, "right")]]
        at = at[np.argsort(grams[at])]
        slices = 1 + self.hashes.nbytes // _SLICE_BYTES
        lows = np.array([hash_range(part, slices)[0] for part in range(1, slices)], np.uint64)
        found = [self._within(some, grams) for some in np.split(at, np.searchsorted(grams[at], lows))]
        at, owners = map(np.concatenate, zip(*found, strict=True))
        order = np.argsort(at, kind="stable")
        return at[order], np.full(len(at), length), grams[at[order]], owners[order]

    def _within(self, at: np.ndarray, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of n-grams that are here, and the item of each; the n-grams lie in a slice of all hashes."""
        low = np.searchsorted(self.hashes, grams[at])
        there = low < len(self.hashes)
        there[there] = self.hashes[low[there]] == grams[at[there]]
        at, low = at[there], low[there]
        times = np.searchsorted(self.hashes, grams[at], "right") - low
        at = at.repeat(times)
        places = np.repeat(low - (np.cumsum(times) - times), times) + np.arange(len(at))
        owners = self.owners[places].astype(np.int64)
        for mapped in (self.hashes, self.owners, self.filter):
            if isinstance(mapped.base, mmap):
                mapped.base.madvise(MADV_DONTNEED)  # else all pages count as this process's after a few batches
        return at, owners


class _Batch:
    """What the index holds of some items. `sizes` says how many n-grams each has, 0 where it is too short."""

    def __init__(self, batch: list[Item], number: int, step: DecontaminateStep) -> None:
        codes = Codes([text for item in batch for text in item.texts])
        words, hashes, letters = codes.words, codes.folded_word_hashes, letters_before(codes)
        texts = np.cumsum([0, *(len(item.texts) for item in batch)])
        found = ngrams(hashes, words.bounds, step.ngram)
        text = np.searchsorted(words.bounds, found.first, "right") - 1
        owners = number + np.searchsorted(texts, text, "right") - 1
        self.grams = distinct(np.stack([found.hashes, owners.astype(np.uint64)]))
        self.sizes = np.bincount(self.grams[1].astype(np.int64) - number, minlength=len(batch))
        self.lengths: list[int] = []
        rows = []
        for item in np.flatnonzero(self.sizes == 0).tolist():
            strings = pairwise(words.bounds[texts[item] : texts[item + 1] + 1].tolist())
            start, stop = max(strings, key=lambda string: string[1] - string[0], default=(0, 0))
            if start < stop and letters[words.end[stop - 1]] - letters[words.start[start]] >= step.shortest:
                rows.append((rolling_hashes(hashes[start:stop], stop - start)[0], number + item))
                self.lengths.append(stop - start)
                self.sizes[item] = 1
        self.short = np.array(rows, np.uint64).reshape(-1, 2).T


class _Names:
    """What items are called."""

    def __init__(self) -> None:
        self.test: list[str] = []
        self.where: list[str] = []
        self.ngrams: list[int] = []

    def add(self, batch: list[Item], sizes: np.ndarray) -> None:
        self.test += [item.test for item in batch]
        self.where += [item.where for item in batch]
        self.ngrams += sizes.tolist()

    def write(self, path: str) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({"test": self.test, "where": self.where, "ngrams": self.ngrams})
        with atomic_file(Path(path), "wb") as handle:
            parquet.write_table(table, handle)


def _write_sorted(unsorted: str, count: int, to: IndexFiles) -> None:
    def slices() -> Iterator[np.ndarray]:
        for part in range(_SLICES):
            hashes, found = read_range([unsorted], 2, *hash_range(part, _SLICES))
            kept = np.arange(len(hashes)) - np.searchsorted(hashes, hashes) < ITEMS
            grams.write(hashes[kept].tobytes())
            owners.write(found[kept].astype(np.uint32).tobytes())
            yield hashes[kept]

    with atomic_file(Path(to.grams), "wb") as grams, atomic_file(Path(to.owners), "wb") as owners:
        bits = _filter(count, slices())
    with atomic_file(Path(to.filter), "wb") as handle:
        handle.write(bits.tobytes())


def _filter(count: int, hashes: Iterable[np.ndarray]) -> np.ndarray:
    """A bit for each of so many hashes, among 16 to 32 times as many."""
    bits = np.zeros(1 << max(3, (2 * count).bit_length()), np.uint8)
    for some in hashes:
        byte, bit = _bits(bits, some)
        np.bitwise_or.at(bits, byte, bit)
    return bits


def _bits(bits: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The byte and the bit of a filter for each hash."""
    place = (hashes >> np.uint64(62 - len(bits).bit_length())).astype(np.uint32)
    return place >> np.uint32(3), np.left_shift(np.uint8(1), (place & np.uint32(7)).astype(np.uint8))


def _mapped(path: str, dtype: type) -> np.ndarray:
    return np.memmap(path, dtype, "r") if Path(path).stat().st_size else np.zeros(0, dtype)


def _batches(found: Iterator[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in found:
        batch.append(item)
        size += sum(map(len, item.texts))
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
