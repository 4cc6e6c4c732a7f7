"""Cleaning: measure every record, look across records, decide, write; each of it a list of tasks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from danlu.ledger.cluster import ClusterSettings, ClusterWorkers, cluster_workers
from danlu.ledger.manifest import NAME as MANIFEST
from danlu.ledger.tasks import Task, Workers
from danlu.text.cleaning.kept_scores import check_scores
from danlu.text.cleaning.line import Line, Progress
from danlu.text.cleaning.results import STATISTICS, check_read, results_of, write_results
from danlu.text.cleaning.scorers import Scorers, check_scorers
from danlu.text.cleaning.sources import Survey, file_digests, survey_sources
from danlu.text.cleaning.trail import TRAIL, write_trail
from danlu.text.cleaning.write import write
from danlu.text.settings import KINDS, CleanSettings

ALONE_BYTES = 1 << 24  # input for which starting worker processes takes longer than the work


def clean(settings: CleanSettings, out: Path, scorers: Scorers | None = None, columns: Path | None = None) -> None:
    """Writes {documents,conversations,preferences}/SOURCE/part-*.jsonl.zst, dropped/ of the same form with `step`,
    `reason` and `value` in each row, columns/ with all that was measured, statistics.json with what each step did,
    trail.json with the way of each record, and manifest.json with counts and hashes. `scorers` are the functions that
    some steps need of the rooms above; `columns` is another place for the columns, which outlives `out`.

    Interrupted anywhere, the same call goes on from there; with other thresholds nothing is measured again, with
    another step only that one and those that see what it changes.
    Raises UserError for sources with nothing to read, with one name, or with too many bad rows, and before any work for
    a step that needs a function which nobody gave.
    """
    check_scorers(settings.steps, scorers or {})
    # What stands beside an old manifest is about to change.
    for name in (MANIFEST, STATISTICS, TRAIL):
        (out / name).unlink(missing_ok=True)
    _Cleaning(settings, out, scorers or {}, columns or out / "columns").run()


class _Cleaning:
    def __init__(self, settings: CleanSettings, out: Path, scorers: Scorers, columns: Path) -> None:
        self._settings, self._out, self._scorers, self._columns = settings, out, scorers, columns
        self._alone = True

    def run(self) -> None:
        digests = file_digests(self._settings)
        with self._open_workers() as self._workers:
            survey = survey_sources(self._settings, self._columns, self._survey)
            self._alone = survey.bytes < ALONE_BYTES
            lines = self._lines(survey, digests)
            self._run([task for line in lines for task in line.measure_tasks()], "measure")
            check_read(self._settings, survey)
            for line in lines:
                line.finish()
            written = self._write(lines)
        self._remove_stale(survey, lines)
        write_trail(self._out, self._settings, lines)
        write_results(self._out, self._settings, survey, results_of(lines, written), written)

    def _open_workers(self) -> Workers | ClusterWorkers:
        settings = self._settings
        if settings.executor == "local":
            return Workers(settings.workers)
        return cluster_workers(settings.executor, settings.cluster or ClusterSettings())

    def _survey(self, tasks: list[Task], nbytes: int) -> list[Any]:
        self._alone = nbytes < 64 * ALONE_BYTES  # hashing is that much faster than cleaning
        return self._run(tasks, "survey")

    def _lines(self, survey: Survey, digests: dict[str, str]) -> list[Line]:
        lines = []
        for kind in KINDS:
            parts = [part for part in survey.parts if part.kind == kind]
            steps = [step for step in self._settings.steps if kind in step.kinds]
            if parts:
                lines.append(Line(kind, parts, steps, self._out, self._run, self._scorers, digests))
        return lines

    def _write(self, lines: list[Line]) -> dict[str, dict[str, Any]]:
        """By part's name, what was written."""
        tasks = []
        scores = self._settings.keep_scores
        for line in lines:
            check_scores(scores, line.parts[0].turns)
        for progress in (progress for line in lines for progress in line.parts):
            kept, dropped = self._outputs(progress)
            arguments = {
                "part": progress.part,
                "turns": progress.turns,
                "verdicts": progress.verdicts[-1],
                "scores": scores,
                "kept": str(kept),
                "dropped": str(dropped),
            }
            tasks.append(Task(f"write {progress.part.name}", write, arguments, [], [kept, dropped]))
        results = self._run(tasks, "write")
        return {task.arguments["part"].name: result for task, result in zip(tasks, results, strict=True)}

    def _outputs(self, progress: Progress) -> tuple[Path, Path]:
        name = f"{progress.part.name}.jsonl.zst"
        return self._out / name, self._out / "dropped" / name

    def _run(self, tasks: list[Task], title: str, ledger: Path | None = None) -> list[Any]:
        folder = ledger or self._out / "tasks" / title.replace(" ", "-")
        return self._workers.run(tasks, folder, f"clean: {title}", alone=self._alone)

    def _remove_stale(self, survey: Survey, lines: list[Line]) -> None:
        """Removes what an earlier call with other sources or cuts wrote, and findings that answer other questions.

        Columns of parts that are still there stay: going back to earlier steps finds them.
        """
        mine = {path for line in lines for progress in line.parts for path in self._outputs(progress)}
        mine |= {self._columns / part.name for part in survey.parts}
        mine |= {Path(file) for line in lines for progress in line.parts for file in progress.verdicts}
        mine |= {folder for line in lines for folder in line.findings}
        for kind in KINDS:
            found = [
                path
                for folder in (self._out, self._out / "dropped", self._out / "verdicts", self._columns)
                for path in (folder / f"{kind}s").glob("*/part-*")
            ]
            for path in [*found, *(self._out / "findings" / f"{kind}s").glob("*")]:
                if path not in mine:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
