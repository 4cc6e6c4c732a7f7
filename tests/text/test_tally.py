"""What steps did, in numbers that add up however the work was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from danlu.text.cleaning.tally import Histogram
from danlu.text.steps.base import Range


@hypothesis_settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(-1e9, 1e9, allow_subnormal=False) | st.integers(-3, 3).map(float) | st.just(float("nan"))),
    st.integers(0, 40),
    st.floats(-4, 4, allow_subnormal=False),
    st.floats(0, 4, allow_subnormal=False),
)
def test_histograms_add_up_however_they_are_cut(values: list[float], at: int, low: float, width: float) -> None:
    characters, bounds = np.arange(len(values)), Range(min=low, max=low + width)
    whole, first, second = (Histogram(bounds) for _ in range(3))
    whole.add(np.array(values), characters, 2 * characters)
    first.add(np.array(values[:at]), characters[:at], 2 * characters[:at])
    second.add(np.array(values[at:]), characters[at:], 2 * characters[at:])
    merged = Histogram()
    merged.merge(first.as_dict())
    merged.merge(second.as_dict())
    assert merged.as_dict() == whole.as_dict()
    assert whole.missing[0] == sum(value != value for value in values)
    bins, last = whole.as_dict()["bins"], -np.inf
    for section, edge, lowest, highest, rows, weight, tokens in bins:
        inside = [n for n, value in enumerate(values) if lowest <= value <= highest]
        assert last < lowest and abs(edge) <= abs(lowest) and abs(highest) <= abs(edge) * (1 + 1 / 32)
        assert (rows, weight, tokens) == (len(inside), sum(inside), 2 * sum(inside))
        assert (
            section
            == (lowest >= bounds.min) + (lowest > bounds.max)
            == (highest >= bounds.min) + (highest > bounds.max)
        )
        last = highest
    assert sum(entry[4] for entry in bins) + whole.missing[0] == len(values)
