"""What a classifier trained here sees of a text: its words, Chinese characters and marks, alone and in a row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from danlu.text.kernels import Class, Codes, class_table, fold_table, ngrams

FEATURES = 1
"""To be raised with every change of code that makes other features of the same text."""
_SPREAD = np.uint64(0x9FB21C651E98DF25)

Bags = list[tuple[np.ndarray, np.ndarray]]
"""For each length of n-gram its places in the table, int64, text after text, and where those of each text begin."""


def bags(texts: Sequence[str], longest: int, bits: int) -> Bags:
    """The n-grams of 1 to `longest` units of each text, hashed to places below 2^bits.

    A unit is a Chinese character, a run of other letters and digits, or a mark; upper and lower case, and full and half
    width, are the same, and so are all digits.
    """
    codes = Codes(texts)
    units = codes.words_and_marks
    hashes = codes.hashes_as(_plain(), units)
    found = ((gram.hashes, gram.bounds) for gram in (ngrams(hashes, units.bounds, n) for n in range(1, longest + 1)))
    return [((grams * _SPREAD >> np.uint64(64 - bits)).view(np.int64), bounds) for grams, bounds in found]


def counts(found: Bags) -> np.ndarray:
    """How many n-grams each text has."""
    return np.sum([np.diff(bounds) for _, bounds in found], axis=0)


@cache
def _plain() -> np.ndarray:
    table = fold_table().copy()
    table[class_table() == Class.DIGIT] = ord("0")
    return table
