"""The tasks that near-duplicates are found by, in the order in which they run. See near_dedup for what they decide.

A record is known by its place, (part << 40) + row, so that places rise in the order of the corpus. What each task
holds in memory: write_keys a stretch (see sorted_files); find_buckets the same, or all records with one key; join 50
bytes for each record that shares a band with another; write_sets a batch of texts; decide the records that hang
together by shared bands, about 3 KB for each of them that stays, and two sets of n-grams; name_twins what goes of one
part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.ledger.files import atomic_file
from danlu.text.kernels import Codes, Ngrams, mixed, ngrams
from danlu.text.ops.sorted_files import distinct, fresh, hash_range, read_range, save, sorted_file, stretches
from danlu.text.ops.stages import PART, parts_of, place_range, places_of, rows_of, write_findings

if TYPE_CHECKING:
    from danlu.text.cleaning.live import LivePart

_GROUP = 1 << 18  # places in bands that one comparing task takes
FULL = 256  # kept records of one band that later ones are compared with
MOST = 64  # kept records that one record is compared with
_BATCH = 1 << 20  # characters


def shingles(codes: Codes, n: int) -> Ngrams:
    """The n-grams of words, in hashes that are far apart: sums of unmixed ones would be those of other orders too."""
    found = ngrams(codes.folded_word_hashes, codes.words.bounds, n)
    return Ngrams(found.first, mixed(found.hashes), found.bounds)


def write_keys(part: LivePart, bands: int, rows: int, out: str) -> int:
    """Writes (key, hash of all n-grams, place) for each band of each record, and once with that hash as the key."""
    multipliers = mixed(np.arange(1, bands * rows + 1, dtype=np.uint64)) | np.uint64(1)
    salts = mixed(np.arange(bands, dtype=np.uint64) << np.uint64(32))
    count = 0
    with sorted_file(out) as add:
        for numbers, columns in part.columns(["same", "signature"]):
            full = columns["same"].is_valid().to_numpy(zero_copy_only=False)
            if not full.any():
                continue
            same = columns["same"].drop_null().to_numpy(zero_copy_only=False)
            signatures = np.frombuffer(b"".join(columns["signature"].drop_null().to_pylist()), "<u2")
            values = signatures.reshape(len(same), -1)[:, : bands * rows] * multipliers
            keys = mixed(values.reshape(len(same), bands, rows).sum(2, dtype=np.uint64) + salts)
            places = places_of(part.number, numbers[full])
            add(same, same, places)
            # Of what has the same n-grams, the first alone is looked at again.
            first = np.sort(np.unique(same, return_index=True)[1])
            add(keys[first].reshape(-1), same[first].repeat(bands), places[first].repeat(bands))
            count += len(same) + bands * len(first)
    return count


def find_buckets(keys: list[str], bucket: int, buckets: int, same: str, near: str, links: str) -> None:
    """Writes what of a range of keys is not alone with its key.

    `same`: (place, first place with the same n-grams). Of all others, and of the first of those: `near`: (key, place),
    and `links`: (first place with the key, place).
    """
    rows = read_range(keys, 3, *hash_range(bucket, buckets))
    rows = rows[:, _shared(rows[0])]
    equal, rows = rows[:, rows[0] == rows[1]], rows[:, rows[0] != rows[1]]
    first = _firsts(equal[0])
    later = first < np.arange(len(first))
    with sorted_file(same) as add:
        add(equal[2, later], equal[2, first[later]])
    rows = rows[:, np.lexsort((rows[2], rows[1], rows[0]))]
    heads = rows[:, fresh(rows[:2])]
    heads = heads[:, np.lexsort((heads[2], heads[0]))]
    heads = heads[:, _shared(heads[0])]
    with sorted_file(near) as add:
        add(heads[0], heads[2])
    pairs = np.stack([heads[2, _firsts(heads[0])], heads[2]])
    with sorted_file(links) as add:
        add(*distinct(pairs[:, pairs[0] != pairs[1]]))


def join(near: list[str], links: list[str], groups: str, candidates: str) -> list[int]:
    """Writes (group, place, key), where a group is what hangs together by links, known by its first place; and all
    places that are in groups. Returns the groups at which to cut the work of `decide`, with their end."""
    places, ends = np.unique(read_range(links, 2), return_inverse=True)
    first = joined(len(places), *ends.reshape(2, -1))
    sizes = np.zeros(len(places), np.int64)
    with sorted_file(groups) as add:
        for file in near:
            for keys, mine in stretches(file):
                group = first[np.searchsorted(places, mine)]
                sizes += np.bincount(group, minlength=len(places))
                add(places[group], mine, keys)
    with atomic_file(Path(candidates), "wb") as handle:
        save(handle, places)
    found = np.flatnonzero(sizes)
    work = (np.cumsum(sizes[found]) - sizes[found]) // _GROUP
    cuts = places[found[np.unique(work, return_index=True)[1]]].tolist()
    return [*cuts, int(places[-1]) + 1] if cuts else []


def joined(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """For each of `count` numbers the least that pairs join it with, over any number of others."""
    least = np.arange(count)
    while True:
        low, high = np.sort([least[left], least[right]], axis=0)
        if (low == high).all():
            return least
        np.minimum.at(least, high, low)
        while (least != (further := least[least])).any():
            least = further


def write_sets(part: LivePart, candidates: str, ngram: int, sets: str, places: str) -> None:
    """Writes the n-grams of a part's candidates: `sets`, each in order, and their ends with `places`."""
    mine = np.load(candidates)
    mine = mine[parts_of(mine) == part.number]
    ends, size = [], 0
    with atomic_file(Path(sets), "wb") as handle:
        for texts in _batches(part.texts(rows_of(mine))) if len(mine) else ():
            found = shingles(Codes(texts), ngram)
            for start, stop in pairwise(found.bounds.tolist()):
                unique = np.unique(found.hashes[start:stop])
                handle.write(unique.tobytes())
                size += len(unique)
                ends.append(size)
    with atomic_file(Path(places), "wb") as handle:
        save(handle, np.stack([mine, np.array(ends, np.uint64)]))


def decide(groups: str, low: int, high: int, stored: dict[int, tuple[str, str]], threshold: float, out: str) -> int:
    """Writes (place, place of the kept twin, bits of the similarity) for what goes of some groups.

    A record is compared with those kept before it that share a band with it, those that share most bands first: with
    MOST of them, and of a band with its first FULL. Returns for how many records that was not all.
    """
    rows = read_range([groups], 3, low, high)
    rows = rows[:, np.argsort(rows[1], kind="stable")]
    bands = np.unique(rows[2], return_inverse=True)[1].tolist()
    places, starts = np.unique(rows[1], return_index=True)
    sets = _Sets(stored)
    kept: dict[int, list[int]] = {}
    gone, cut_short = [], 0
    for place, (start, stop) in zip(places.tolist(), pairwise([*starts.tolist(), len(bands)]), strict=True):
        mine = [kept.setdefault(band, []) for band in bands[start:stop]]
        shared = Counter(chain.from_iterable(mine))
        ranked = sorted(shared, key=lambda other: (-shared[other], other))
        for other in ranked[:MOST]:
            similarity = sets.jaccard(place, other, threshold)
            if similarity >= threshold:
                gone.append((place, other, similarity))
                break
        else:
            cut_short += len(ranked) > MOST or any(len(others) >= FULL for others in mine)
            for others in mine:
                if len(others) < FULL:
                    others.append(place)
    with sorted_file(out) as add:
        pairs = np.array([row[:2] for row in gone], np.uint64).reshape(-1, 2)
        add(pairs[:, 0], pairs[:, 1], np.array([row[2] for row in gone], np.float64).view(np.uint64))
    return cut_short


def name_twins(
    parts: list[LivePart], index: int, same: list[str], decided: list[str], out: str, meta: dict[str, Any]
) -> int:
    """Writes the findings of a part: what was decided on, and what has the same n-grams as an earlier record, which
    goes for that one's twin where that one goes itself. Returns their number."""
    import pyarrow as pa

    number = parts[index].number
    low, high = place_range(number)
    equal, heads = read_range(same, 2, low, high)
    twins, similarity = heads.copy(), np.ones(len(heads)).view(np.uint64)
    for file in decided:
        for gone in stretches(file):
            at = np.minimum(np.searchsorted(gone[0], heads), gone.shape[1] - 1)
            went = gone[0, at] == heads
            twins[went], similarity[went] = gone[1:, at[went]]
    rows = np.concatenate([read_range(decided, 3, low, high), np.stack([equal, twins, similarity])], axis=1)
    rows = rows[:, np.argsort(rows[0])]
    names = {part.number: part.source for part in parts}
    columns = {
        "twin": pa.array(_origins(parts, rows[1]), pa.string()),
        "source": pa.array([names[owner] for owner in parts_of(rows[1]).tolist()], pa.string()),
        "jaccard": rows[2].view(np.float64),
    }
    write_findings(out, number, rows[0], columns, meta)
    return rows.shape[1]


class _Sets:
    """The n-grams of candidates, read as they are asked for."""

    def __init__(self, stored: dict[int, tuple[str, str]]) -> None:
        self._stored = stored
        self._places: dict[int, np.ndarray] = {}

    def jaccard(self, one: int, other: int, threshold: float) -> float:
        """Common n-grams among all of two records; 0 where their numbers alone keep it below the threshold."""
        spans = sorted((self._span(one), self._span(other)), key=lambda span: span[2])
        if spans[0][2] < threshold * spans[1][2]:
            return 0.0
        both = np.concatenate([np.fromfile(file, np.uint64, count, offset=8 * start) for file, start, count in spans])
        both.sort(kind="stable")  # merges the two, which are sorted
        common = int(np.count_nonzero(both[1:] == both[:-1]))
        return common / (len(both) - common)

    def _span(self, place: int) -> tuple[str, int, int]:
        number = place >> PART
        file, index = self._stored[number]
        if number not in self._places:
            self._places[number] = np.load(index)
        places, ends = self._places[number]
        at = int(np.searchsorted(places, np.uint64(place)))
        start = int(ends[at - 1]) if at else 0
        return file, start, int(ends[at]) - start


def _origins(parts: list[LivePart], places: np.ndarray) -> list[str]:
    names = [""] * len(places)
    owners = parts_of(places)
    for part in parts:
        mine = np.flatnonzero(owners == part.number)
        if len(mine):
            rows, back = np.unique(rows_of(places[mine]), return_inverse=True)
            found = part.origins(rows)
            for place, at in zip(mine.tolist(), back.tolist(), strict=True):
                names[place] = found[at]
    return names


def _batches(texts: Iterator[tuple[int, str]]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for _, text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _shared(keys: np.ndarray) -> np.ndarray:
    """Which of sorted keys have an equal."""
    same = keys[1:] == keys[:-1]
    return np.concatenate([same, [False]]) | np.concatenate([[False], same]) if len(keys) else np.zeros(0, bool)


def _firsts(keys: np.ndarray) -> np.ndarray:
    """Of sorted keys, where the first equal one stands."""
    return np.searchsorted(keys, keys)
