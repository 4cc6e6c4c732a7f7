"""The same tasks on a cluster: datatrove's executors hand them to Slurm or Ray."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from danlu.config import Settings
from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import atomic_file, fingerprint, make_folder
from danlu.ledger.signals import graceful_stop
from danlu.ledger.tasks import Task, Timed, record_tasks, run_tasks, timed

RAY_SECONDS = 120  # in which Ray has to answer
POLL_SECONDS = 5.0
MOST_JOBS = 1000  # of one list of tasks; of more tasks, several make a job

ExecutorName = Literal["local", "slurm", "ray"]


class ClusterSettings(Settings):
    """What a task gets on a cluster. The output folder must be one that every machine sees under the same path."""

    partition: str | None = Field(default=None, description="Slurm's partition; needed there.")
    time: str = Field(
        default="24:00:00",
        pattern=r"^\d+:[0-5]\d:[0-5]\d$",
        description="Hours, minutes and seconds that a task may take (several in turn, where there are over 1,000).",
    )
    cpus: int = Field(default=1, ge=1, description="Cores of one task. One is enough: more tasks are the better use.")
    memory: int = Field(default=2, ge=1, description="GB of memory for each core of a task.")
    tasks: int = Field(default=100, ge=1, description="Tasks that run at the same time.")
    address: str | None = Field(
        default=None, description="Ray's address, such as auto or ray://head:10001; null: Ray on this machine alone."
    )

    @property
    def seconds(self) -> int:
        hours, minutes, seconds = map(int, self.time.split(":"))
        return 3600 * hours + 60 * minutes + seconds


class ClusterWorkers:
    """Runs tasks as `danlu.ledger.tasks.Workers` does, on the machines of a cluster.

    Each list of tasks is one job, whose folder under that of the ledger takes what the tasks give. A job that was cut
    short is gone on with: what its tasks gave by then is taken over.
    """

    def __init__(self, executor: Callable[[Job], Any], waits: Callable[[Any], bool] | None = None) -> None:
        """`executor` makes datatrove's for a job; `waits` says whether what it started is still at work."""
        self._executor, self._waits = executor, waits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing stays behind: a job ends by itself."""

    def run(self, tasks: list[Task], folder: Path, title: str = "tasks", *, alone: bool = False) -> list[Any]:
        """The results of all tasks in their order; `alone`: work too small for a job's wait, done in this process."""
        if alone:
            return run_tasks(tasks, folder, workers=1, title=title)
        return record_tasks(tasks, folder, title, lambda pending: self._results(pending, tasks, folder, title))

    def _results(self, pending: list[Task], tasks: list[Task], folder: Path, title: str) -> Iterator[tuple[int, Timed]]:
        if not pending:
            return
        # All tasks make the job, those done too: so it is the same job however many are left of it.
        job = Job(tasks, folder / "jobs" / fingerprint([task.key() for task in tasks])[:16], re.sub(r"\W+", "-", title))
        place = {id(task): number for number, task in enumerate(pending)}
        left = {rank: place[id(task)] for rank, task in enumerate(tasks) if id(task) in place}
        job.prepare(set(left))
        failed: list[UserError] = []
        with graceful_stop() as stop:
            started = self._start(job)
            at_work = True
            while at_work and left:
                at_work = self._waits is not None and self._waits(started)  # asked before the look at what is there
                for rank in list(left):
                    content = job.content(rank)
                    if content is None:
                        continue
                    number = left.pop(rank)
                    if "error" in content:
                        what, where, do = content["error"]
                        failed.append(UserError(what, where=where, do=do))
                    else:
                        yield number, (content["result"], content["seconds"])
                if at_work and stop.requested:
                    raise Stopped(f"the job goes on; the same command takes up what it gives ({job.folder})")
                if at_work and left:
                    time.sleep(POLL_SECONDS)
        if failed:
            raise failed[0]
        if left:
            raise UserError(
                f"{len(left)} of {len(pending)} tasks gave nothing, {tasks[min(left)].name} the first",
                where=str(job.folder),
                do="look at the logs there, give tasks more memory or time, and run again: the others are done",
            )
        shutil.rmtree(job.folder)

    def _start(self, job: Job) -> Any:
        executor = self._executor(job)
        try:
            executor.run()
        except Exception:
            if not job.failed():  # a task that failed has said so itself
                raise
        return executor


class Job:
    """Tasks by rank, as one step of datatrove's pipelines: each machine loads its own task alone."""

    def __init__(self, tasks: list[Task], folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.outputs = [task.outputs for task in tasks]
        for rank, task in enumerate(tasks):
            with atomic_file(self._file("tasks", rank), "wb") as handle:
                pickle.dump(task, handle)

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Runs one task and leaves its result, or how it failed, in the job's folder."""
        task: Task = pickle.loads(self._file("tasks", rank).read_bytes())
        content: dict[str, Any]
        try:
            result, seconds = timed(task)
            content = {"result": result, "seconds": seconds}
        except UserError as error:
            content = {"error": [error.what, error.where, error.do]}
        except Exception:
            content = {"error": [traceback.format_exc(), task.name, None]}
        with atomic_file(self._file("results", rank)) as handle:
            json.dump(content, handle, ensure_ascii=False)
        if "error" in content:
            raise RuntimeError(content["error"][0])  # so that datatrove does not take it for done

    @property
    def tasks_per_job(self) -> int:
        """How many tasks a machine takes at once, one after the other."""
        return -(-len(self.outputs) // MOST_JOBS)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "name": self.name}

    def prepare(self, left: set[int]) -> None:
        """Has the tasks of these ranks run, but those that have given their result by now."""
        for rank, outputs in enumerate(self.outputs):
            done = self._file("completions", rank)
            content = self.content(rank)
            if rank in left and (content is None or "error" in content or not all(map(Path.exists, outputs))):
                self._file("results", rank).unlink(missing_ok=True)
                done.unlink(missing_ok=True)
            else:
                make_folder(done.parent)
                done.touch()

    def failed(self) -> bool:
        """Whether a task has said that it failed."""
        return any("error" in (self.content(rank) or {}) for rank in range(len(self.outputs)))

    def content(self, rank: int) -> dict[str, Any] | None:
        """{"result", "seconds"} or {"error": [what, where, what to do]}; None where a task has said nothing."""
        try:
            content: dict[str, Any] = json.loads(self._file("results", rank).read_text("utf-8"))
        except FileNotFoundError:
            return None
        return content

    def _file(self, kind: str, rank: int) -> Path:
        return self.folder / kind / f"{rank:05d}"


def cluster_workers(name: ExecutorName, settings: ClusterSettings) -> ClusterWorkers:
    """Workers on Slurm or Ray. Raises UserError where a package or the cluster is missing."""
    _require("datatrove", "cluster")
    _hush()
    if name == "ray":
        _require("ray", "ray")
        _reach_ray(settings.address)
        return ClusterWorkers(lambda job: _on_ray(job, settings))
    return ClusterWorkers(lambda job: _on_slurm(job, settings), _in_queue)


def _on_slurm(job: Job, settings: ClusterSettings) -> Any:
    from datatrove.executor.slurm import SlurmPipelineExecutor

    if settings.partition is None:
        raise UserError("Slurm needs a partition", do="set cluster.partition (sinfo lists them)")
    return SlurmPipelineExecutor(
        pipeline=[job],
        tasks=len(job.outputs),
        workers=settings.tasks,
        partition=settings.partition,
        time=settings.time,
        cpus_per_task=settings.cpus,
        mem_per_cpu_gb=settings.memory,
        tasks_per_job=job.tasks_per_job,
        job_name=job.name,
        logging_dir=str(make_folder(job.folder)),
        env_command=f"export PATH={Path(sys.prefix) / 'bin'}:$PATH",
        mail_type="NONE",
    )


def _in_queue(executor: Any) -> bool:
    """Whether Slurm still has the job that it was given last; jobs of one list follow each other."""
    if executor.job_id in (None, -1):
        return False
    answer = subprocess.run(
        ["squeue", "--noheader", "--jobs", str(executor.job_id)], capture_output=True, text=True, check=False
    )
    return bool(answer.stdout.strip())


def _on_ray(job: Job, settings: ClusterSettings) -> Any:
    from datatrove.executor.ray import RayPipelineExecutor

    return RayPipelineExecutor(
        pipeline=[job],
        tasks=len(job.outputs),
        workers=settings.tasks,
        cpus_per_task=settings.cpus,
        mem_per_cpu_gb=settings.memory,
        tasks_per_job=job.tasks_per_job,
        time=settings.seconds,
        logging_dir=str(make_folder(job.folder)),
    )


def _hush() -> None:
    """Keeps what datatrove tells of its own work to its log files."""
    from loguru import logger

    logger.disable("datatrove")


def _require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{package} is not installed", do=f'pip install "danlu[{extra}]"')


def _reach_ray(address: str | None) -> None:
    """Connects to Ray, or starts it here; in a thread, as Ray itself may wait for ever.

    The thread stays: what Ray starts on this machine dies with the thread that started it.
    """
    import ray

    if ray.is_initialized():
        return
    failures: list[BaseException] = []
    reached = threading.Event()

    def reach() -> None:
        try:
            ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
        except BaseException as error:  # for the thread that waits
            failures.append(error)
        reached.set()
        threading.Event().wait()

    threading.Thread(target=reach, daemon=True).start()
    if not reached.wait(RAY_SECONDS) or failures:
        why = str(failures[0]) if failures else f"no answer in {RAY_SECONDS} seconds"
        raise UserError(f"Ray cannot be reached: {why}", where=address, do="see `ray status`, or set cluster.address")
