"""Packing of one step's documents."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.tokens.packing import best_fit


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60), st.integers(1, 8))
def test_best_fit_keeps_all_within_the_limits(lengths: list[int], limit: int) -> None:
    rows = best_fit(lengths, 20, limit)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 20 and 0 < len(row) <= limit for row in rows)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_best_fit_is_decreasing_and_best(lengths: list[int]) -> None:
    """The plain quadratic algorithm gives rows of the same contents."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in rows if sum(row) + length <= 20]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    packed = [sorted(lengths[item] for item in row) for row in best_fit(lengths, 20, 99)]
    assert sorted(packed) == sorted(sorted(row) for row in rows)


def test_speed_on_a_large_step() -> None:
    lengths = np.random.default_rng(0).gamma(1.5, 250, 1152).astype(int).clip(8, 1024).tolist()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        rows = best_fit(lengths, 1024, 64)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02, f"{min(times) * 1000:.1f} ms for 1,152 conversations"
    assert sum(lengths) / (len(rows) * 1024) > 0.97


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        best_fit([21], 20, 4)
