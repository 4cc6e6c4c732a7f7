"""What cleaning will take and keep, from cleaning about a hundredth of it."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.progress import peak_memory
from danlu.ledger.tasks import LEDGER, begin_worker, core_count, read_seconds
from danlu.text.clean import clean
from danlu.text.cleaning.results import STATISTICS
from danlu.text.cleaning.sampling import Sample, sample_source
from danlu.text.cleaning.scorers import Scorers
from danlu.text.cleaning.sources import folder_name, kind_of
from danlu.text.files import source_files
from danlu.text.settings import CleanSettings, CleanSource
from danlu.text.survey import text_bytes

SHARE = 0.01
LEAST_BYTES, MOST_BYTES = 1 << 22, 1 << 26  # of files: less says little about speed, more keeps one waiting
WARM_ROWS = 50
ONE_A_PART = ("measure", "measure-again", "decide", "write")


@dataclass(slots=True)
class StepBill:
    """What a step is expected to do with the whole corpus; seconds are of one core."""

    step: str
    edits: bool = False
    """Whether it is the step's second turn, in which it changes the texts that it has compared."""
    rows: float = 0.0
    dropped: float = 0.0
    characters_in: float = 0.0
    characters_out: float = 0.0
    seconds: float = 0.0

    @property
    def kept(self) -> float:
        """The share of characters that the step leaves."""
        return self.characters_out / self.characters_in if self.characters_in else 1.0


@dataclass(frozen=True, slots=True)
class Bill:
    """What cleaning is expected to take."""

    share: float
    rows: float
    text_mb: float
    steps: list[StepBill]
    core_seconds: dict[str, float]
    """By stage."""
    workers: int
    worker_mb: float
    disk_mb: dict[str, float]
    """By folder."""
    parts: int
    tasks: int

    @property
    def seconds(self) -> float:
        """By the clock."""
        return sum(self.core_seconds.values()) / max(1, min(self.workers, self.parts))

    @property
    def memory_mb(self) -> float:
        """All workers together."""
        return self.worker_mb * min(self.workers, self.parts)

    @property
    def slowest(self) -> StepBill:
        """The step that takes the most time."""
        return max(self.steps, key=lambda step: step.seconds, default=StepBill("none"))

    def mb_per_second(self, step: StepBill) -> float | None:
        """Megabytes of text a second of one core; None for a step that measures nothing of its own."""
        return self.text_mb * step.characters_in / self._characters / step.seconds if step.seconds else None

    @property
    def _characters(self) -> float:
        return max((step.characters_in for step in self.steps), default=0.0) or 1.0


def dry_run(settings: CleanSettings, scorers: Scorers | None = None) -> Bill:
    """Cleans about a hundredth of every source in a folder that is thrown away. Duplicates of what was not in the
    sample are not seen: steps that look for them will drop more. Raises UserError where there is nothing to read.
    """
    listed = [source_files(source, source.kind, Counts()) for source in settings.sources]
    total = sum(file.stat().st_size for files in listed for file in files)
    share = min(1.0, max(min(SHARE, MOST_BYTES / total), LEAST_BYTES / total)) if total else 1.0
    with tempfile.TemporaryDirectory(prefix="danlu-") as name:
        folder, samples = Path(name), {}
        for number, (source, files) in enumerate(zip(settings.sources, listed, strict=True)):
            (folder / str(number)).mkdir()
            samples[_name(source)] = sample_source(source, files, share, folder / str(number))
        # A process of its own, so that its peak of memory is a worker's.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=begin_worker) as process:
            worker_mb = process.submit(_clean_sample, _sampled(settings, samples), folder, scorers).result()
        files = [file for files in listed for file in files]
        parts = max(len(settings.sources), round(sum(map(text_bytes, files)) / settings.task_bytes))
        return _bill(settings, folder, samples, worker_mb, parts, len(files))


def _name(source: CleanSource) -> str:
    """What the source is called in the results."""
    return f"{source.kind or kind_of(source)}s/{folder_name(source)}"


def _sampled(settings: CleanSettings, samples: dict[str, Sample]) -> CleanSettings:
    sources = []
    for source in settings.sources:
        there = {"path": str(samples[_name(source)].file), "name": folder_name(source), "format": "auto"}
        anything: dict[str, Any] = {"limit": None, "include": [], "exclude": [], "max_bad_share": 1.0}
        sources.append(source.model_copy(update={**there, **anything, "kind": source.kind or kind_of(source)}))
    here = {"workers": 1, "executor": "local", "cluster": None}
    return settings.model_copy(update={"sources": sources, **here})


def _clean_sample(settings: CleanSettings, folder: Path, scorers: Scorers | None) -> float:
    """Cleans some rows to have everything loaded, then the sample. Gives the peak of memory in MB."""
    few = []
    for number, source in enumerate(settings.sources):
        path = folder / f"few-{number}.jsonl"
        with Path(source.path).open("rb") as rows:
            path.write_bytes(b"".join(islice(rows, WARM_ROWS)))
        few.append(source.model_copy(update={"path": str(path)}))
    for chosen, out in ((settings.model_copy(update={"sources": few}), "few"), (settings, "out")):
        try:
            clean(chosen, folder / out, scorers)
        except UserError:
            if out == "out" and not (folder / out / STATISTICS).exists():
                raise  # but that nothing of a sample is kept is for the table to show
    return peak_memory() / 1e6


def _bill(
    settings: CleanSettings, folder: Path, samples: dict[str, Sample], worker_mb: float, parts: int, files: int
) -> Bill:
    out = folder / "out"
    by_source = json.loads((out / STATISTICS).read_text("utf-8"))
    steps: dict[tuple[Any, ...], StepBill] = {}
    for name, done in by_source.items():
        scale = 1 / samples[name].share
        for step in done:
            bill = steps.setdefault((step["number"], step["edits"]), StepBill(step["step"], step["edits"]))
            bill.rows += scale * step["rows"]
            bill.dropped += scale * sum(entry["count"] for entry in step["dropped"].values())
            bill.characters_in += scale * step["characters_in"]
            bill.characters_out += scale * step["characters_out"]
            bill.seconds += scale * step["seconds"]
    sizes = {name: sample.file.stat().st_size for name, sample in samples.items()}
    whole = sum(size / samples[name].share for name, size in sizes.items())
    scale = whole / max(1, sum(sizes.values()))
    ledgers = {file.parent: _stage(file.parent, out) for file in sorted(out.rglob(LEDGER))}
    seconds: dict[str, float] = {}
    for ledger, stage in ledgers.items():
        seconds[stage] = seconds.get(stage, 0.0) + scale * read_seconds(ledger)
    disk: dict[str, float] = {}
    for file in out.rglob("*"):
        if file.is_file():
            part = file.relative_to(out).parts[0]
            disk[part] = disk.get(part, 0.0) + scale * file.stat().st_size / 1e6
    return Bill(
        share=1 / scale,
        rows=sum(sample.rows / sample.share for sample in samples.values()),
        text_mb=whole / 1e6,
        steps=list(steps.values()),
        core_seconds=seconds,
        workers=settings.cluster.tasks if settings.cluster else settings.workers or core_count(),
        worker_mb=worker_mb,
        disk_mb={name: size for name, size in disk.items() if size >= 0.1},
        parts=parts,
        tasks=_tasks(ledgers, out, parts, files),
    )


def _stage(ledger: Path, out: Path) -> str:
    """ "measure", "decide", … or the step whose findings the tasks gathered."""
    place = ledger.relative_to(out).parts
    return place[1] if place[0] == "tasks" else place[-2].rpartition("-")[0]


def _tasks(ledgers: dict[Path, str], out: Path, parts: int, files: int) -> int:
    """How many tasks there will be: most come once a part, those of the survey once a file."""
    counts = {ledger: sum(1 for _ in (ledger / LEDGER).open("rb")) for ledger in ledgers}
    sampled = counts[out / "tasks" / "write"]
    whole = dict.fromkeys(ONE_A_PART, parts / sampled) | {"survey": files / counts[out / "tasks" / "survey"]}
    return round(sum(count * whole.get(ledgers[ledger], 1) for ledger, count in counts.items()))
