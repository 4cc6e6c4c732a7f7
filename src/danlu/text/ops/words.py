"""Words of a record: how many, how long, and how many of them are function words."""

from __future__ import annotations

from functools import cache
from itertools import count

import numpy as np

from danlu.text.function_words import ENGLISH
from danlu.text.kernels import Class, Codes, codes_of, sums
from danlu.text.ops.operator import Column
from danlu.text.records import Record
from danlu.text.steps.statistics import WordsStep

_TABLE_BITS = 16


def measure(records: list[Record], step: WordsStep) -> dict[str, Column]:
    """`count`; `average_length` of words other than Chinese characters and kana, NaN without any; `function_words`:
    the share of words that are function words, of English in any usual case, of Chinese as single characters."""
    codes = codes_of(records)
    words, counts = codes.words, codes.class_counts
    single = counts[:, [Class.KANA, Class.HAN, Class.FUNCTION]].sum(1)
    function = counts[:, Class.FUNCTION] + sums(_english(codes), words.bounds)
    letters = (sums(words.lengths, words.bounds) - single).astype(float)
    runs = words.counts - single
    return {
        "count": words.counts,
        "average_length": np.divide(letters, runs, out=np.full(len(runs), np.nan), where=runs > 0),
        "function_words": function / np.maximum(words.counts, 1),
    }


def _english(codes: Codes) -> np.ndarray:
    """Which words of a batch are function words of English."""
    table, multiplier = _english_table()
    return table[_places(codes.word_hashes, multiplier)] == codes.word_hashes


@cache
def _english_table() -> tuple[np.ndarray, np.uint64]:
    """The hashes of all words, each at its place; and the multiplier by which no two have one place."""
    spellings = {spelt for word in ENGLISH for spelt in (word, word.capitalize(), word.upper())}
    hashes = Codes(sorted(spellings | {word.replace("'", "’") for word in spellings})).word_hashes
    multiplier = next(m for m in map(np.uint64, count(1, 2)) if len(np.unique(_places(hashes, m))) == len(hashes))
    table = np.zeros(1 << _TABLE_BITS, np.uint64)
    table[_places(hashes, multiplier)] = hashes
    return table, multiplier


def _places(hashes: np.ndarray, multiplier: np.uint64) -> np.ndarray:
    return (hashes * multiplier >> np.uint64(64 - _TABLE_BITS)).view(np.int64)
