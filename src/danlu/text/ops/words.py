"""Words of a record: how many, how long, and how many of them are function words."""

from __future__ import annotations

from functools import cache

import numpy as np

from danlu.text.function_words import ENGLISH
from danlu.text.kernels import Class, Codes, codes_of, sums
from danlu.text.ops.operator import Column
from danlu.text.records import Record
from danlu.text.steps.statistics import WordsStep


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
    known, hashes = _english_hashes(), codes.word_hashes
    near = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return known[near] == hashes


@cache
def _english_hashes() -> np.ndarray:
    spellings = {spelt for word in ENGLISH for spelt in (word, word.capitalize(), word.upper())}
    codes = Codes(sorted(spellings | {word.replace("'", "’") for word in spellings}))
    return np.sort(codes.word_hashes)
