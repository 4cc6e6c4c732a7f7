"""Stopping when asked: the work in hand is finished and saved, then the program ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from danlu.ledger.errors import Stopped

STOPPING = (signal.SIGINT, signal.SIGTERM)
TOLD = "stopped; the same command goes on from there"


@dataclass
class Stop:
    """`requested` turns true at the first Ctrl-C or SIGTERM; `asked` is its number."""

    requested: bool = False
    asked: int = signal.SIGINT


@contextmanager
def graceful_stop() -> Iterator[Stop]:
    """Work that is left whole when asked to stop: at the first Ctrl-C or SIGTERM `requested` turns true, a second one
    ends the program at once.

    Raises Stopped at its end where a stop was requested, so that nothing is begun after it, even when all the work was
    in hand already and is done. Stopped from within it gets the signal that asked.
    """
    with caught(STOPPING) as stop:
        try:
            yield stop
        except Stopped as stopped:
            stopped.asked = stop.asked if stop.requested else stopped.asked
            raise
    if stop.requested:
        raise Stopped(TOLD, stop.asked)


@contextmanager
def caught(signals: Sequence[signal.Signals]) -> Iterator[Stop]:
    """Within it the first of `signals` sets `requested`; a second one ends the program at once.

    Outside the main thread signals cannot be caught; there it gives a Stop that nobody sets.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in signals}

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested, stop.asked = True, number
        for other in before:
            signal.signal(other, signal.SIG_DFL)

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
