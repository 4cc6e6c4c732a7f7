"""The next steps, made in a thread while the current one is trained on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Self

from danlu.tokens.stream import Step


class Prefetcher:
    """Makes the next steps in a thread while the current one is trained on.

    Iterate over it; what goes wrong in the thread is raised there. As a context, or by `close`, it ends its thread.
    """

    def __init__(self, steps: Iterator[Step], depth: int = 2) -> None:
        self._ready: queue.Queue[Step | BaseException | None] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(steps,), name="prefetcher", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        if self._stopping.is_set():
            raise StopIteration
        made = self._ready.get()
        if isinstance(made, Step):
            return made
        self.close()
        if made is None:
            raise StopIteration
        raise made

    def close(self) -> None:
        """Ends the thread after the step in hand; more calls do nothing."""
        self._stopping.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, steps: Iterator[Step]) -> None:
        try:
            for step in steps:
                if not self._put(step):
                    return
            self._put(None)
        except BaseException as error:  # carried over to the thread that trains, whatever it is
            self._put(error)

    def _put(self, made: Step | BaseException | None) -> bool:
        while not self._stopping.is_set():
            try:
                self._ready.put(made, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
