"""What a run left behind: its stages with manifests and curves, its scores, its answers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.ledger.checkpoints import list_checkpoints
from danlu.ledger.errors import UserError
from danlu.ledger.files import read_json
from danlu.ledger.manifest import read_manifest, run_name
from danlu.report.curves import Curve, read_curve
from danlu.report.diagnose import Finding, diagnose

_TRAINING = ("pretrain", "sft", "reward", "orpo", "dpo", "simpo", "kto")
STAGES = (
    "sample",
    "clean",
    "tokenizer",
    *(f"{part}{name}" for name in _TRAINING for part in ("pack/", "")),
    "evaluate",
)
"""A run's folders in the order in which they are made."""
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's folder: `manifest` is empty before the stage has finished, `seconds` None where nobody measured."""

    name: str
    manifest: dict[str, Any] = field(default_factory=dict)
    curve: Curve | None = None
    seconds: float | None = None
    parameters: int | None = None

    @property
    def findings(self) -> list[Finding]:
        return diagnose(self.curve) if self.curve else []


@dataclass(frozen=True, slots=True)
class Run:
    """A run, one stage of a run, or a published log. `folder` None marks a log, beside which nothing is written."""

    name: str
    path: Path
    folder: Path | None
    stages: list[Stage]
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    def trained(self) -> list[Stage]:
        """The stages that have a curve."""
        return [stage for stage in self.stages if stage.curve]


def load_run(path: Path) -> Run:
    """A run's folder, a stage's folder (it holds metrics.jsonl), a metrics.jsonl, or the log of a transformers Trainer.

    Raises UserError where there is nothing to report.
    """
    if path.is_file():
        curve = read_curve(path)
        folder = path.parent if path.name == METRICS else None
        return Run(curve.name, path, folder, [_stage(curve.name, folder) if folder else _logged(curve)])
    if not path.is_dir():
        option, _, value = path.name.partition("=")
        options = ("language", "out")  # keys of recipes are written so, options of commands are not
        do = f"write --{option} {value}" if option in options else "name a run's folder or a training log"
        raise UserError("no such file or folder", where=str(path), do=do)
    if (path / METRICS).is_file():
        return Run(path.name, path, path, [_stage(path.name, path)])
    stages = [_stage(name, path / name) for name in STAGES if (path / name).is_dir()]
    scores = _scores(path / "evaluate" / "results.json")
    if not stages and not scores:
        raise UserError(
            f"no stage here: none of {', '.join(STAGES)}", where=str(path), do="name the `out` folder of a recipe"
        )
    return Run(run_name(path), path, path, stages, scores)


def _stage(name: str, folder: Path) -> Stage:
    metrics = folder / METRICS
    curve = read_curve(metrics, name) if metrics.is_file() and metrics.stat().st_size else None
    manifest = read_manifest(folder) or {}
    return Stage(name, manifest, curve, _seconds(folder, curve), _parameters(folder))


def _logged(curve: Curve) -> Stage:
    return Stage(curve.name, curve=curve, seconds=curve.seconds)


def _seconds(folder: Path, curve: Curve | None) -> float | None:
    """Time spent on a stage, over all its interruptions."""
    record = folder / "stage.json"
    if record.is_file():
        seconds = json.loads(record.read_text("utf-8"))["seconds"]
        return float(seconds)
    return curve.seconds if curve else None


def _parameters(folder: Path) -> int | None:
    """The number of weights in the newest checkpoint, from the headers of its safetensors files."""
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return None
    count = 0
    for file in checkpoints[-1].glob("model*.safetensors"):
        with file.open("rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count or None


def _scores(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    return read_json(path)
