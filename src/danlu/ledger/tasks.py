"""Work on data as a list of pure, repeatable tasks, run in a process pool and recorded as they finish."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import drop_torn_line, fingerprint
from danlu.ledger.progress import progress
from danlu.ledger.signals import graceful_stop

LEDGER = "tasks.jsonl"


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

    def key(self) -> str:
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.inputs]
        function = f"{self.function.__module__}.{self.function.__qualname__}"
        return fingerprint([self.name, function, self.arguments, stats, [str(path) for path in self.outputs]])


def run_tasks(tasks: list[Task], folder: Path, *, workers: int = 0, title: str = "tasks") -> list[Any]:
    """Runs the tasks that `folder`/tasks.jsonl does not hold as done; gives all results in the tasks' order.

    `workers` 0 means one a core; with one worker or one task left, work stays in this process.
    Raises Stopped after Ctrl-C or SIGTERM: tasks in hand are finished, and the same call goes on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ledger = folder / LEDGER
    done = _read(ledger)
    results: dict[int, Any] = {}
    pending: list[int] = []
    for index, task in enumerate(tasks):
        entry = done.get(task.name)
        if entry and entry["key"] == task.key() and all(path.exists() for path in task.outputs):
            results[index] = entry["result"]
        else:
            pending.append(index)
    count = min(workers or os.cpu_count() or 1, len(pending))
    with progress(title, len(tasks), "tasks") as bar, ledger.open("a", encoding="utf-8") as record:
        bar.advance(len(results))
        for index, result in _run(tasks, pending, count):
            entry = {"name": tasks[index].name, "key": tasks[index].key(), "result": result}
            record.write(json.dumps(entry, ensure_ascii=False) + "\n")
            record.flush()
            results[index] = result
            bar.advance(1)
    if len(results) < len(tasks):
        raise Stopped(
            f"{title}: stopped with {len(results)} of {len(tasks)} tasks done; the same command goes on from there"
        )
    return [results[index] for index in range(len(tasks))]


def _run(tasks: list[Task], pending: list[int], workers: int) -> Iterator[tuple[int, Any]]:
    with graceful_stop() as stop:
        if workers <= 1:
            for index in pending:
                if stop.requested:
                    return
                yield index, tasks[index].function(**tasks[index].arguments)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_signals_to_the_parent) as pool:
            waiting = list(reversed(pending))
            running: dict[Future[Any], int] = {}
            while (waiting and not stop.requested) or running:
                # No more than the workers can hold, so that a stop waits for tasks in hand only.
                while waiting and len(running) < workers and not stop.requested:
                    task = tasks[waiting[-1]]
                    running[pool.submit(task.function, **task.arguments)] = waiting.pop()
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    index = running.pop(future)
                    yield index, _result(future, tasks[index])


def _result(future: Future[Any], task: Task) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was ended from outside, most often for want of memory",
            where=task.name,
            do="run again with fewer workers",
        ) from error


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _read(ledger: Path) -> dict[str, dict[str, Any]]:
    if not ledger.is_file():
        return {}
    drop_torn_line(ledger)
    with ledger.open(encoding="utf-8") as handle:
        return {entry["name"]: entry for entry in map(json.loads, handle)}
