"""The n-grams of words by which near-duplicates and contamination are found: 64-bit hashes, many texts at once.

A word is a run of letters and digits, or one Chinese or Japanese character; case, width and punctuation do not count:
`Ｈello, 世界！` has the words hello, 世, 界. So an n-gram is n words in English, n characters in Chinese, and in mixed
text it runs on over both. Two different n-grams have one hash with a probability of about 2^-64, so a set of hashes
stands for the set of n-grams.
"""

from __future__ import annotations

import unicodedata
from copy import copy
from functools import cache

import numpy as np

from danlu.text.kernels import Codes, Ngrams, mixed, ngrams

LAST_CASED = 0x1FFFF  # above it no letter has another form


def word_hashes(codes: Codes) -> np.ndarray:
    """A hash of each of `codes.words`, the same for all ways to write its letters."""
    folded = copy(codes)
    folded.points = _folded().take(codes.points)
    folded.__dict__.pop("_sums", None)
    return folded.hashes(codes.words)


def shingles(codes: Codes, n: int) -> Ngrams:
    """All n-grams of words; `first` counts words."""
    found = ngrams(word_hashes(codes), codes.words.bounds, n)
    return Ngrams(found.first, mixed(found.hashes), found.bounds)


@cache
def _folded() -> np.ndarray:
    """By code point, what it counts as: letters and digits in lower case and of ordinary width."""
    table = np.arange(0x110000, dtype=np.uint32)
    for code in range(0x80, LAST_CASED + 1):
        character = chr(code)
        if unicodedata.category(character)[0] in "LN":
            plain = unicodedata.normalize("NFKC", character).lower()
            table[code] = ord(plain) if len(plain) == 1 else code
    table[ord("A") : ord("Z") + 1] += 0x20
    return table
