"""What of each source is seen: weights, shares, temperature and caps, against a slow filling by small sips."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from danlu.text.settings import SourceSettings
from danlu.tokens.mixing import portions
from danlu.tokens.settings import DataSettings


def mix(*sources: dict[str, Any], **more: Any) -> DataSettings:
    found = [SourceSettings(path="x", name=f"s{number}", **source) for number, source in enumerate(sources)]
    return DataSettings(sources=found, **more)


def test_a_weight_is_passes_over_a_source() -> None:
    found = portions(mix({}, {"weight": 2.0}, {"weight": 0.5}), [100, 70, 31], 3)
    assert [of.passes for of in found] == [1.0, 2.0, 0.5], "exactly, so that old orders stay"
    assert [of.epochs for of in found] == [3.0, 6.0, 1.5]


def test_temperature_evens_sizes_out() -> None:
    found = portions(mix({}, {}, temperature=2.0), [900, 100], 1)
    assert [of.share for of in found] == pytest.approx([0.75, 0.25]), "30 : 10"
    assert sum(of.seen for of in found) == pytest.approx(1000), "an epoch is as long as ever"
    even = portions(mix({}, {}, temperature=1e9), [900, 100], 1)
    assert [of.share for of in even] == pytest.approx([0.5, 0.5])


def test_a_share_is_of_the_tokens_and_the_others_share_the_rest() -> None:
    found = portions(mix({"share": 0.4}, {}, {"weight": 3.0}), [100, 300, 100], 2)
    assert [of.share for of in found] == pytest.approx([0.4, 0.3, 0.3])
    assert sum(of.seen for of in found) == pytest.approx(2 * (100 + 300 + 300))


def test_what_is_capped_goes_to_the_others() -> None:
    found = portions(mix({"share": 0.5, "max_epochs": 4}, {}, {}), [100, 3000, 6000], 2)
    assert found[0].epochs == pytest.approx(4)
    assert sum(of.seen for of in found) == pytest.approx(2 * 9100)
    assert found[1].epochs == pytest.approx(found[2].epochs), "in proportion"
    short = portions(mix({"max_epochs": 1.0}, {"max_epochs": 2.0}), [100, 100], 4)
    assert [of.epochs for of in short] == pytest.approx([1, 2]), "all at their most: the run is shorter"
    assert portions(mix({"share": 0.5}, {}), [0, 100], 1)[1].passes == pytest.approx(1), "nothing comes of nothing"


quick = settings(max_examples=60, deadline=None)
SOURCE = st.tuples(st.integers(1, 1000), st.floats(0.1, 5), st.none() | st.floats(0.2, 9))


@quick
@given(st.lists(SOURCE, min_size=1, max_size=5), st.floats(0.5, 5), st.floats(0.5, 4))
def test_against_filling_by_sips(
    sources: list[tuple[int, float, float | None]], temperature: float, epochs: float
) -> None:
    """Each sip goes to all that are not full, in proportion to w · n^(1/T), until the run has all its tokens."""
    given_settings = mix(*({"weight": w, "max_epochs": cap} for _, w, cap in sources), temperature=temperature)
    found = portions(given_settings, [n for n, _, _ in sources], epochs)
    most = [n * (cap or 1e9) for n, _, cap in sources]
    parts = [w * n ** (1 / temperature) for n, w, _ in sources]
    glass, left = [0.0] * len(sources), epochs * sum(w * n for n, w, _ in sources)
    while left > 1e-9 and (free := [at for at in range(len(sources)) if glass[at] < most[at] * (1 - 1e-12)]):
        whole = sum(parts[at] for at in free)
        sip = min(left, *(whole * (most[at] - glass[at]) / parts[at] for at in free))
        for at in free:
            glass[at] += sip * parts[at] / whole
        left -= sip
    assert [of.seen for of in found] == pytest.approx(glass, rel=1e-6, abs=1e-6)
    assert sum(of.share for of in found) == pytest.approx(1)


@pytest.mark.parametrize(
    ("sources", "part"),
    [
        ([{"share": 0.7}, {"share": 0.7}], "sum to 1.4"),
        ([{"share": 0.7}, {"share": 0.2}], "sum to 0.9"),
        ([{"share": 0.5}, {"share": 0.5}, {}], "leave nothing"),
        ([{"share": 0.5, "weight": 2.0}, {}], "Remove one"),
    ],
)
def test_shares_that_are_no_whole(sources: list[dict[str, Any]], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        mix(*sources)
