"""How the cache grows: by doubling while there is room, then by what is needed, and it says when it moved."""

from __future__ import annotations

from danlu.infer.cache import Cache


def test_growth_doubles_within_the_bound_and_counts_moves() -> None:
    cache = Cache(max_rows=4, max_tokens=1024)
    cache.reserve(2, 100)
    assert (cache.rows, cache.length, cache.moves) == (2, 128, 1)
    cache.reserve(2, 90)
    assert cache.moves == 1
    cache.reserve(2, 130)
    assert (cache.rows, cache.length, cache.moves) == (2, 256, 2)
    cache.reserve(4, 250)
    assert (cache.rows, cache.length, cache.moves) == (4, 256, 3)


def test_where_doubling_would_pass_the_bound_the_need_is_taken() -> None:
    cache = Cache(max_rows=4, max_tokens=1024)
    cache.reserve(2, 300)
    assert cache.length == 320
    cache.reserve(2, 400)
    assert (cache.rows, cache.length) == (2, 448)
    cache.reserve(3, 340)
    assert cache.rows * cache.length <= 1024
