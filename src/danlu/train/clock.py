"""Time by phases of a step, on the host or on a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Counts each moment to one phase, the innermost that is open.

    On a GPU moments are events in its stream: nothing waits to be timed, and what the GPU does at a moment is counted,
    not what the host has handed to it already.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: list[str] = []
        self._since: Any = None
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block's time to `name`, but for phases inside of it."""
        self._turn(opened=name)
        try:
            yield
        finally:
            self._turn(opened=None)

    def read(self) -> dict[str, float]:
        """Seconds by phase since the last call; on a GPU, once it has come here. No phase may be open."""
        if self._device.type == "cuda":  # this stream alone: a checkpoint may be on its way to the host in another
            torch.cuda.current_stream(self._device).synchronize()
        spent: dict[str, float] = {}
        for name, begin, end in self._spans:
            seconds = end - begin if isinstance(end, float) else begin.elapsed_time(end) / 1e3
            spent[name] = spent.get(name, 0.0) + seconds
        self._spans.clear()
        return spent

    def _turn(self, opened: str | None) -> None:
        now = self._now()
        if self._open:
            self._spans.append((self._open[-1], self._since, now))
        if opened is None:
            self._open.pop()
        else:
            self._open.append(opened)
        self._since = now

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
