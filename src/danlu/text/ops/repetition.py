"""How much of a record was said before in it, by n-grams of characters and of words."""

from __future__ import annotations

import numpy as np

from danlu.text.kernels import Class, Codes, codes_of, sums
from danlu.text.ops.operator import Column
from danlu.text.records import Record
from danlu.text.seen import repeated_ngrams
from danlu.text.steps.statistics import RepetitionStep


def measure(records: list[Record], step: RepetitionStep) -> dict[str, Column]:
    """`characters` and `words`: the share of a record's characters that lie in an n-gram which stood earlier in it.

    With n-grams g_1 … g_m of a record in order and R = {i: g_i = g_j for some j < i}, it is the number of characters
    that the n-grams in R cover together, each counted once, over the number of all characters: (k - 1) / k for a text
    said k times over. So count Rae et al. 2021 (Gopher, arXiv:2112.11446, appendix A.1.1) characters in duplicate
    n-grams. N-grams of characters instead of words are from Laurençon et al. 2022 (ROOTS, arXiv:2303.03915), whose
    ratio counts the most frequent ones only. White space is left out among characters, so that indented code repeats
    nothing by it; what stands between the words of an n-gram counts with them.
    """
    codes = codes_of(records)
    return {"characters": _characters(codes, step.character_n), "words": _words(codes, step.word_n)}


def _characters(codes: Codes, n: int) -> np.ndarray:
    counts = codes.class_counts[:, Class.BLANK + 1 :].sum(1)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    first, cuts = repeated_ngrams(codes.points[codes.classes > Class.BLANK], bounds, n)
    return _covered(first, first + n, cuts) / np.maximum(counts, 1)


def _words(codes: Codes, n: int) -> np.ndarray:
    first, cuts = repeated_ngrams(codes.word_hashes, codes.words.bounds, n)
    return _covered(codes.words.start[first], codes.words.end[first + n - 1], cuts) / np.maximum(codes.lengths, 1)


def _covered(start: np.ndarray, end: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """How much of each record stretches [start, end) cover together; they rise, and end within their record."""
    end_before = np.concatenate([np.zeros(1, np.int64), end])[: len(end)]
    return sums(end - np.maximum(start, end_before), cuts)
