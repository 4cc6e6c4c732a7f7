"""The order of training: permutations and mixtures in closed form."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.tokens.order import Mixture, Order, Passes, permute

quick = settings(max_examples=60, deadline=None)


@quick
@given(st.integers(1, 3000), st.integers(0, 9))
def test_permutations_are_one_to_one(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permutations_scatter() -> None:
    """Against the uniform law: mean and neighbour correlation of 20,000 ranks, four standard deviations wide."""
    size = 20_000
    order = permute(np.arange(size), size, "a") / size
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / size**0.5
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 4 / size**0.5
    assert not (permute(np.arange(size), size, "b") == order * size).all()


@quick
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(sum))
def test_mixtures_are_exact_and_even(counts: list[int]) -> None:
    mixture = Mixture(tuple(counts))
    source, item = mixture.slots(0, mixture.total)
    for number, of in enumerate(counts):
        assert item[source == number].tolist() == list(range(of)), "each item of a source once, in its order"
        came = np.concatenate([[0], np.cumsum(source == number)])
        share = np.arange(mixture.total + 1) * of / mixture.total
        assert np.abs(came - share).max() <= len(counts) / 2 + 0.5, "close to its share after any number"
        assert came.tolist() == [mixture.before(position)[number] for position in range(mixture.total)] + [of]


@quick
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6).filter(sum), st.data())
def test_mixtures_are_the_same_from_anywhere(counts: list[int], data: st.DataObject) -> None:
    mixture = Mixture(tuple(counts))
    start = data.draw(st.integers(0, mixture.total - 1))
    count = min(data.draw(st.integers(1, 40)), mixture.total - start)
    source, item = mixture.slots(start, count)
    assert len(source) == count
    again = [mixture.slots(position, 1) for position in range(start, start + count)]
    assert [(int(s[0]), int(i[0])) for s, i in again] == list(zip(source.tolist(), item.tolist(), strict=True))


@quick
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(sum), st.integers(0, 99))
def test_passes_take_all_once_shard_by_shard(sizes: list[int], seed: int) -> None:
    passes = Passes(sizes, seed)
    everything = {(shard, index) for shard, size in enumerate(sizes) for index in range(size)}
    for number in range(3):
        places = passes.places(number * passes.total, passes.total)
        assert set(places) == everything and len(places) == len(everything)
        shards = [shard for shard, _ in places]
        changes = sum(a != b for a, b in pairwise(shards))
        assert changes == sum(size > 0 for size in sizes) - 1, "one shard after the other"


@quick
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(0, 9),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_order_is_the_same_however_it_is_asked_for(sizes: list[list[int]], seed: int, counts: list[int]) -> None:
    order = Order(sizes, [(0, [1.0] * len(sizes)), (17, [0.5] * len(sizes))], seed)
    whole = order.places(0, sum(counts))
    parts = [
        place for at, count in zip(np.cumsum([0, *counts]), counts, strict=False) for place in order.places(at, count)
    ]
    assert parts == whole


def test_epochs_and_seeds_differ() -> None:
    order = Order([[40, 40], [30]], [(0, [1.0, 1.0])], 1)
    first, second = order.places(0, order.epoch), order.places(order.epoch, order.epoch)
    other = Order([[40, 40], [30]], [(0, [1.0, 1.0])], 2).places(0, order.epoch)
    assert set(first) == set(second) == set(other) and len(set(first)) == 110
    assert first != second and first != other


def test_weights_are_passes() -> None:
    order = Order([[30], [30], [30]], [(0, [2.0, 0.5, 0.0])], 0)
    assert order.epoch == 75
    for epochs, expected in ((1, {0: 60, 1: 15}), (2, {0: 120, 1: 30})):
        places = order.places(0, order.epoch * epochs)
        assert Counter(place.source for place in places) == expected
    seen = Counter(place.index for place in places if place.source == 1)
    assert set(seen.values()) == {1}, "two halves make one whole pass"


def test_a_change_of_weights_goes_on_where_each_source_was() -> None:
    order = Order([[50], [50]], [(0, [1.0, 1.0]), (20, [0.0, 1.0]), (30, [1.0, 0.0])], 0)
    places = order.places(0, 70)
    assert {place.source for place in places[20:30]} == {1} and {place.source for place in places[30:]} == {0}
    for source in (0, 1):
        mine = [place.index for place in places if place.source == source]
        assert len(mine) == len(set(mine)), "nothing twice before the pass is over"


def test_large_numbers() -> None:
    order = Order([[10**12], [3 * 10**12]], [(0, [1.0, 1.0])], 0)
    places = order.places(2 * 10**12 + 12345, 4000)
    assert Counter(place.source for place in places)[0] == pytest.approx(1000, abs=2)
    assert len(set(places)) == 4000
