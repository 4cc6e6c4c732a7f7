"""Which hashes, and which n-grams, stood earlier in their record: in little memory, however long records are."""

from __future__ import annotations

import numpy as np

from danlu.text.kernels import across_records, rolling_hashes

_MIX = np.uint64(0xD6E8FEB86659FD93)
_NEAR = 1 << 15  # hashes whose table the processor's cache holds
_PASSES = 16  # in which the places of shares are found
_BLOCK = 1 << 16


def repeated_ngrams(units: np.ndarray, bounds: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where among units the n-grams begin that stood earlier in their record, and where records begin among those.

    In less memory than `ngrams` takes: those across records come last in theirs, so that no other is equal to an
    earlier one of them.
    """
    hashes = rolling_hashes(units, n)
    seen = seen_before(hashes, np.minimum(bounds, len(hashes)))
    seen[across_records(bounds, n, len(hashes))] = False
    again = np.flatnonzero(seen)
    return again, np.searchsorted(again, bounds)


def seen_before(hashes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Which hashes stood earlier in their record."""
    keys = hashes
    if len(bounds) > 2:
        records = np.arange(len(bounds) - 1, dtype=np.uint64) * _MIX  # equals in two records shall differ
        keys = np.repeat(records, np.diff(bounds))
        keys += hashes
    pieces, begin = [np.zeros(0, bool)], 0
    while begin < len(keys):
        near = np.searchsorted(bounds, begin + _NEAR, "right") - 1
        end = bounds[near] if bounds[near] > begin else bounds[np.searchsorted(bounds, begin, "right")]
        pieces.append(_seen(keys[begin:end]) if end - begin <= 8 * _NEAR else _seen_in_shares(keys[begin:end]))
        begin = end
    return np.concatenate(pieces)


def _seen_in_shares(keys: np.ndarray) -> np.ndarray:
    """`_seen` of many keys in little memory: share by share, equals in the same one."""
    bits = min(16, (len(keys) // _NEAR).bit_length())
    share = np.empty(len(keys), np.uint16)
    for start in range(0, len(keys), _BLOCK):  # by other bits than those of the places
        share[start : start + _BLOCK] = (keys[start : start + _BLOCK] * _MIX >> np.uint64(16)).astype(np.uint16)
    share >>= 16 - bits
    seen = np.empty(len(keys), bool)
    together = max(1, (1 << bits) // _PASSES)
    for first in range(0, 1 << bits, together):
        some = np.flatnonzero((share >= first) & (share < first + together))
        for mine in _by_value(some, share[some] - np.uint16(first)):
            seen[mine] = _seen(keys[mine])
    return seen


def _by_value(places: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """The places with each value, in their order."""
    order = np.argsort(values, kind="stable")
    return np.split(places[order], np.cumsum(np.bincount(values))[:-1])


def _seen(keys: np.ndarray) -> np.ndarray:
    """A hash table filled by all keys at once: the first key on a place takes it, and its equals find it there.

    Keys that find another on their place go on to the next round, with other places.
    """
    bits = max(1, (2 * len(keys) - 1).bit_length())
    table = np.empty(1 << bits, np.uint32)
    seen = np.zeros(len(keys), bool)
    left, spread, asked = np.arange(len(keys), dtype=np.uint32), keys * _MIX, keys
    while len(left):
        place = (spread >> np.uint64(64 - bits)).view(np.int64)
        table[place[::-1]] = left[::-1]  # the last one written stays, which is the first key
        first = table[place]
        equal = keys[first] == asked
        seen[left[equal]] = (first != left)[equal]
        other = np.flatnonzero(~equal)
        left, asked = left[other], asked[other]
        spread = (spread[other] ^ spread[other] >> np.uint64(29)) * _MIX
    return seen
