"""One piece of work beside training."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class Background:
    """Runs one call at a time in a thread; what went wrong in it is raised by the next `start` or `wait`.

    As a context it waits for the call in hand when it ends.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._running: Future[Any] | None = None

    def start(self, call: Callable[[], object]) -> None:
        """Begins `call` once the one before has ended."""
        self.wait()
        self._running = self._pool.submit(call)

    def wait(self) -> None:
        """Returns when nothing runs."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self.wait()
