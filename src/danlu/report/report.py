"""`danlu report`: a page over any number of runs, and a curve and a summary in each run's own folder."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.report.curves import Curve
from danlu.report.page import render
from danlu.report.plots import write_plot
from danlu.report.runs import Run, Stage, load_run
from danlu.report.words import Language, sentence


def report(runs: list[Path], out: Path, language: Language = "en") -> Path:
    """Writes `out`/index.html over all `runs` and gives its path.

    A run is a recipe's output folder, one stage of it, a metrics.jsonl, or the log of a transformers Trainer. Each
    folder gets loss.png and summary.json; those of a log are written to `out` under the log's name. Raises UserError
    for a path that holds no run, or for none at all.
    """
    if not runs:
        raise UserError("no run to report", do="name the `out` folder of a recipe, or a training log")
    loaded = [load_run(path) for path in runs]
    for run in loaded:
        _write_summary(run, out, language)
    page = out / "index.html"
    with atomic_file(page) as handle:
        handle.write(render(_told_apart(loaded), language, out))
    return page


def _told_apart(runs: list[Run]) -> list[Run]:
    """Runs of one recipe have one name: their folders are named too."""
    times = Counter(run.name for run in runs)
    return [replace(run, name=f"{run.name} ({run.path})") if times[run.name] > 1 else run for run in runs]


def _write_summary(run: Run, out: Path, language: Language) -> None:
    plot, summary = (
        (run.folder / "loss.png", run.folder / "summary.json")
        if run.folder
        else (out / f"{run.name}.png", out / f"{run.name}.json")
    )
    curves = [stage.curve for stage in run.trained() if stage.curve]
    if curves:
        write_plot(curves, plot, language)
    with atomic_file(summary) as handle:
        json.dump(summarise(run, language), handle, ensure_ascii=False, indent=1)
        handle.write("\n")


def summarise(run: Run, language: Language) -> dict[str, Any]:
    """A run's last numbers, findings and scores, JSON-ready."""
    return {
        "run": run.name,
        "seconds": sum(stage.seconds or 0.0 for stage in run.stages),
        "stages": {stage.name: _stage(stage, language) for stage in run.stages},
        "scores": run.scores,
    }


def _stage(stage: Stage, language: Language) -> dict[str, Any]:
    content: dict[str, Any] = {"seconds": stage.seconds}
    if stage.parameters:
        content["parameters"] = stage.parameters
    if speed := stage.manifest.get("speed"):
        content["speed"] = speed
    if stage.curve:
        content |= _ends(stage.curve)
        content["findings"] = [
            {"kind": finding.kind, "wrong": finding.wrong, "says": sentence(finding, language), **finding.values}
            for finding in stage.findings
        ]
    return content


def _ends(curve: Curve) -> dict[str, Any]:
    """Last values of every column, and the lowest losses."""
    ends = {name: points[-1][1] for name in curve.columns() if (points := curve.points(name))}
    lowest = {
        f"lowest_{name}": min(value for _, value in points)
        for name in ("loss", "held_out_loss")
        if (points := curve.points(name))
    }
    return {"steps": curve.rows[-1]["step"], "last": ends, **lowest}
