"""Prefetching: the same steps, errors in the loop, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from danlu.tokens.prefetch import Prefetcher
from danlu.tokens.stream import Step


def steps(count: int, fail_at: int | None = None, made: list[int] | None = None) -> Iterator[Step]:
    for number in range(count):
        if number == fail_at:
            raise RuntimeError("a damaged shard")
        if made is not None:
            made.append(number)
        yield Step([], number, 0.0, 1, 0, 0, 0, 0.0)


def running() -> bool:
    return any(thread.name == "prefetcher" for thread in threading.enumerate())


def test_all_steps_come_in_order() -> None:
    with Prefetcher(steps(20)) as prefetched:
        assert [step.consumed for step in prefetched] == list(range(20))
        assert list(prefetched) == [], "the end stays the end"
    assert not running()


def test_errors_come_out_in_the_loop() -> None:
    with Prefetcher(steps(20, fail_at=3)) as prefetched, pytest.raises(RuntimeError, match="damaged"):
        for number, step in enumerate(prefetched):
            assert step.consumed == number
    assert number == 2 and not running()


def test_it_works_ahead_but_not_further_than_its_depth() -> None:
    made: list[int] = []
    with Prefetcher(steps(100, made=made), depth=2):
        time.sleep(0.3)
        assert 2 <= len(made) <= 3
    assert not running()


def test_leaving_early_ends_the_thread() -> None:
    with pytest.raises(KeyError), Prefetcher(steps(1000)) as prefetched:
        next(prefetched)
        raise KeyError
    assert not running()
