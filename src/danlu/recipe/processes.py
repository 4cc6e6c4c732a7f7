"""Several processes of this machine that train together, started and ended as one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from danlu.ledger.signals import STOPPING, Stop

GRACE = 5.0
"""Seconds in which the others may end by themselves once one has failed, and again once they were asked to."""
LOOKING = 0.05  # seconds between looks
PARENT = "DANLU_PARENT"
"""The environment variable that holds the number of the process which started these."""


def run_together(
    command: Sequence[str], count: int, calm: Collection[int] = (0,), stop: Stop | None = None
) -> list[int]:
    """Runs `command` as `count` processes that find one another, and gives their exit codes.

    They are told by RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun does, and by `PARENT` whose
    end is theirs (`danlu.ledger.parent`). SIGINT and SIGTERM are handed on to each once, as SIGTERM: where nobody
    catches that yet, Python ends without a word; `stop` is told of the first. Where one ends otherwise than with a code
    of `calm`, those that do not end by themselves are ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared[PARENT] = str(os.getpid())
    shared.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    started = [
        # In sessions of their own, so that a terminal's Ctrl-C reaches them once, through this process.
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, start_new_session=True)
        for rank in range(count)
    ]
    try:
        with _handing_on(started, stop or Stop()):
            _wait(started, calm)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    return [process.wait() for process in started]


def _wait(started: Sequence[subprocess.Popen[Any]], calm: Collection[int]) -> None:
    """Returns when all have ended, or some time after one has failed."""
    deadlines = iter((GRACE, GRACE))
    deadline: float | None = None
    while any(process.poll() is None for process in started):
        failed = any(process.poll() not in (None, *calm) for process in started)
        if failed and deadline is None:
            deadline = time.monotonic() + next(deadlines)
        if deadline is not None and time.monotonic() > deadline:
            more = next(deadlines, None)
            if more is None:
                return
            for process in started:
                process.terminate()
            deadline = time.monotonic() + more
        time.sleep(LOOKING)


@contextmanager
def _handing_on(started: Sequence[subprocess.Popen[Any]], stop: Stop) -> Iterator[None]:
    def hand_on(number: int, _: object) -> None:
        stop.requested, stop.asked = True, stop.asked if stop.requested else number
        for process in started:
            process.terminate()

    caught = STOPPING if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, hand_on) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
