"""Work on data as a list of pure, repeatable tasks, run in a process pool and recorded as they finish."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import drop_torn_line, explained, fingerprint, make_folder, read_json_lines
from danlu.ledger.parent import end_with
from danlu.ledger.progress import progress
from danlu.ledger.signals import Stop, graceful_stop

LEDGER = "tasks.jsonl"
Timed = tuple[Any, float]


@dataclass(frozen=True, slots=True)
class Task:
    """`function(**arguments)` writes `outputs` whole or not at all and returns a JSON-like result.

    `function` lives at a module's top level. The task is done again when its function's name, its arguments or
    one of its `inputs` (by size and time of change) differ from those recorded, or an output is gone.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    identity: str | None = None
    """Stands for the arguments where they hold more than that on which the result depends."""

    def key(self) -> str:
        stats = [_identity(path) for path in self.inputs]
        function = f"{self.function.__module__}.{self.function.__qualname__}"
        asked = self.arguments if self.identity is None else self.identity
        return fingerprint([self.name, function, asked, stats, [str(path) for path in self.outputs]])


class Workers:
    """Processes for several lists of tasks, started with the first list that needs them.

    `count` 0 means one a core. With one worker, `alone`, and for a single task before they have started, work stays
    in this process; so it does, which is told, where a script of one's own would be run again by each of them.
    """

    def __init__(self, count: int = 0) -> None:
        self._count = count or core_count()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, tasks: list[Task], folder: Path, title: str = "tasks", *, alone: bool = False) -> list[Any]:
        """Runs the tasks that `folder`/tasks.jsonl does not hold as done; gives all results in the tasks' order.

        Raises Stopped after Ctrl-C or SIGTERM: tasks in hand are finished, and the same call goes on from there.
        """
        return record_tasks(tasks, folder, title, self._here if alone else self._results)

    def _results(self, tasks: list[Task]) -> Iterator[tuple[int, Timed]]:
        if self._count == 1 or (len(tasks) <= 1 and self._pool is None):
            yield from self._here(tasks)
            return
        if self._pool is None and (script := _unguarded()):
            print(
                f"danlu: one process does all of the work: others would run {script} once more, as they import it\n"
                '  → put what it does below `if __name__ == "__main__":` to use all cores',
                file=sys.stderr,
                flush=True,
            )
            self._count = 1
            yield from self._here(tasks)
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, mp_context=context, initializer=begin_worker)
        with graceful_stop() as stop:
            yield from self._pooled(self._pool, tasks, stop)

    def _here(self, tasks: list[Task]) -> Iterator[tuple[int, Timed]]:
        with graceful_stop() as stop:
            for index, task in enumerate(tasks):
                if stop.requested:
                    return
                yield index, timed(task)

    def _pooled(self, pool: ProcessPoolExecutor, tasks: list[Task], stop: Stop) -> Iterator[tuple[int, Timed]]:
        waiting = list(reversed(range(len(tasks))))
        running: dict[Future[Timed], int] = {}
        failed: UserError | Exception | None = None
        while (waiting and not stop.requested and not failed) or running:
            # No more than the workers can hold, so that a stop waits for tasks in hand only.
            while waiting and len(running) < self._count and not stop.requested and not failed:
                task = tasks[waiting[-1]]
                running[pool.submit(timed, task)] = waiting.pop()
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                try:
                    result = _result(future, tasks[index])
                except Exception as error:
                    failed = failed or error  # the others in hand are finished first, so that their work counts
                else:
                    yield index, result
        if failed:
            raise failed


def _unguarded() -> Path | None:
    """The script that this process runs, where it does not ask whether it is the main one."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    script = Path(file) if file else None
    return script if script and script.is_file() and b"__main__" not in script.read_bytes() else None


def core_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(tasks: list[Task], folder: Path, *, workers: int = 0, title: str = "tasks") -> list[Any]:
    """Runs one list of tasks as `Workers` does."""
    with Workers(workers) as running:
        return running.run(tasks, folder, title)


def record_tasks(
    tasks: list[Task], folder: Path, title: str, results: Callable[[list[Task]], Iterator[tuple[int, Timed]]]
) -> list[Any]:
    """The results of all tasks: of those that the ledger holds as done, and of the rest as `results` gives them.

    `results` takes the tasks to do and gives their indices with what `timed` gave, in any order; asked to stop it
    raises Stopped, and what it gave before counts.
    """
    if not tasks:
        return []
    ledger = make_folder(folder) / LEDGER
    done = _read(ledger)
    keys = [task.key() for task in tasks]
    finished: dict[int, Any] = {}
    for index, task in enumerate(tasks):
        entry = done.get(task.name)
        if entry and entry["key"] == keys[index] and all(path.exists() for path in task.outputs):
            finished[index] = entry["result"]
    pending = [index for index in range(len(tasks)) if index not in finished]
    try:
        with progress(title, len(tasks), "tasks") as bar:
            bar.advance(len(finished))
            for place, (result, seconds) in results([tasks[index] for index in pending]):
                index = pending[place]
                entry = {"name": tasks[index].name, "key": keys[index], "seconds": round(seconds, 4), "result": result}
                with explained(ledger), ledger.open("a", encoding="utf-8") as record:
                    record.write(json.dumps(entry, ensure_ascii=False) + "\n")
                finished[index] = result
                bar.advance(1)
    except Stopped as stopped:
        raise Stopped(f"{title}: {len(finished)} of {len(tasks)} tasks done; {stopped}", stopped.asked) from None
    return [finished[index] for index in range(len(tasks))]


def timed(task: Task) -> Timed:
    """The task's result and the CPU seconds that it took."""
    start = time.process_time()
    result = task.function(**task.arguments)
    _give_memory_back()
    return result, time.process_time() - start


def _give_memory_back() -> None:
    """Has the C library return what is free: else each task begins with the peak of those before it (glibc alone)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def read_seconds(folder: Path) -> float:
    """CPU seconds that all tasks of a ledger took."""
    return sum(float(entry.get("seconds", 0)) for entry in _read(folder / LEDGER).values())


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        do = "put it back, or delete the folder in which it was and run again"
        raise UserError(f"this file cannot be read any more ({error.strerror})", where=str(path), do=do) from None
    return str(path), stat.st_size, stat.st_mtime_ns


def _result(future: Future[Timed], task: Task) -> Timed:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was ended from outside, most often for want of memory",
            where=task.name,
            do="run again with fewer workers",
        ) from error


def begin_worker() -> None:
    """First thing in a process of a pool: signals are the parent's to act on, and where it ends this one ends."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with(parent.pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _read(ledger: Path) -> dict[str, dict[str, Any]]:
    if not ledger.is_file():
        return {}
    drop_torn_line(ledger)
    return {entry["name"]: entry for entry in read_json_lines(ledger)}
