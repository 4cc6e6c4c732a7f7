"""Several processes of this machine that train together, started and ended as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file, read_json
from danlu.ledger.signals import STOPPING, Stop

GRACE = 5.0
"""Seconds in which the others may end by themselves once one has failed, and again once they were asked to."""
LOOKING = 0.05  # seconds between looks
PARENT = "DANLU_PARENT"
"""The environment variable that holds the number of the process which started these."""
ERRORS = "DANLU_ERRORS"
"""That of the folder in which each of these leaves the error that ended it."""


def run_together(
    command: Sequence[str], count: int, calm: Collection[int] = (0,), stop: Stop | None = None
) -> list[int]:
    """Runs `command` as `count` processes that find one another, and gives their exit codes.

    They are told by RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun does, and by `PARENT` whose
    end is theirs (`danlu.ledger.parent`). SIGINT and SIGTERM are handed on to each once, as SIGTERM: where nobody
    catches that yet, Python ends without a word; `stop` is told of the first. Where one ends otherwise than with a code
    of `calm`, those that do not end by themselves are ended.

    Raises the UserError that they leave by `tell`, once however many have it, or one that says all that differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        codes = _run(command, count, calm, stop, folder)
        told = {str(error): error for rank in range(count) if (error := _told(Path(folder), rank))}
    if told:
        raise next(iter(told.values())) if len(told) == 1 else UserError("\n".join(told))
    return codes


def tell(error: UserError) -> None:
    """Leaves the error that ends this process to the one that started it with others, or says it on standard error."""
    if ERRORS in os.environ:
        with suppress(UserError, OSError):  # it may be the full disk itself that ended this process
            with atomic_file(Path(os.environ[ERRORS]) / os.environ["RANK"]) as handle:
                json.dump({"what": error.what, "where": error.where, "do": error.do}, handle)
            return
    print(f"danlu: {error}", file=sys.stderr, flush=True)


def _told(folder: Path, rank: int) -> UserError | None:
    path = folder / str(rank)
    return UserError(**read_json(path)) if path.is_file() else None


def _run(command: Sequence[str], count: int, calm: Collection[int], stop: Stop | None, errors: str) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {PARENT: str(os.getpid()), ERRORS: errors}
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
