"""Training curves, read from a stage's metrics.jsonl or from a published Hugging Face Trainer log."""

from __future__ import annotations

import ast
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics

TRAINER_NAMES = {
    "learning_rate": "learning_rate",
    "loss": "loss",
    "eval_loss": "held_out_loss",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
    "rewards/chosen": "rewards_chosen",
    "rewards/rejected": "rewards_rejected",
    "rewards/accuracies": "rewards_accuracy",
    "rewards/margins": "rewards_margin",
}
"""What transformers' Trainer and TRL call the columns that our metrics have."""

ALL_SOURCES = "all"
_ROW = re.compile(r"\{'[^{}]*\}")
_PROGRESS = re.compile(r"(\d+)/(\d+) \[")

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """One training run: rows in order of their step, under danlu's metric names.

    A row holds only what was measured at its step; a number that was not finite is NaN. Held-out columns of single
    sources and tags are called `held_out_loss/SOURCE` and `held_out_loss/region=四川`. `seconds` is the wall time of
    training and `final` what was printed at its end, where the file tells.
    """

    name: str
    rows: list[dict[str, float]]
    seconds: float | None
    final: dict[str, float]

    def points(self, column: str) -> Points:
        """(step, value) where the column was measured with a finite value."""
        return [(row["step"], row[column]) for row in self.rows if math.isfinite(row.get(column, math.nan))]

    def columns(self) -> list[str]:
        """The measured columns, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name != "step"))

    def epoch_starts(self) -> list[float]:
        """The steps at which the second and later epochs begin, interpolated from the `epoch` column."""
        starts: list[float] = []
        points = self.points("epoch")
        for (step, epoch), (next_step, next_epoch) in itertools.pairwise(points):
            # A run that ends at a whole epoch has no epoch after it.
            for whole in range(max(1, math.ceil(epoch)), math.ceil(next_epoch)):
                starts.append(step + (whole - epoch) / (next_epoch - epoch) * (next_step - step))
        return starts


def read_curve(path: Path, name: str | None = None) -> Curve:
    """The curve of a metrics.jsonl, or of the output of a transformers Trainer with any other suffix.

    Raises UserError for a file that holds no curve.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), do="name a metrics.jsonl or a training log")
    curve = _from_metrics(path, name) if path.suffix == ".jsonl" else _from_log(path, name)
    if any("step" not in row for row in curve.rows) or not curve.points("loss"):
        raise UserError("no training step in it", where=str(path), do="name the log of a run that has trained")
    return curve


def _from_metrics(path: Path, name: str | None) -> Curve:
    """Held-out rows carry their source or tag; that of all sources together gives the plain columns."""
    rows = []
    for row in read_metrics(path):
        source = row.get("tag", row.get("source", ALL_SOURCES))
        numbers = _numbers(row)
        named = {f"{key}/{source}" if key != "step" else key: value for key, value in numbers.items()}
        rows.append(numbers if source == ALL_SOURCES else named)
    return Curve(name or path.parent.name, sorted(rows, key=lambda row: row.get("step", 0)), None, {})


def _from_log(path: Path, name: str | None) -> Curve:
    """Rows are printed every so many steps without their number; the interval follows from epoch and step total."""
    text = path.read_text("utf-8", errors="replace")
    printed = [row for match in _ROW.finditer(text) if (row := _literal(match.group())) is not None]
    rows = [row for row in printed if "loss" in row]
    final = next((_numbers(row) for row in reversed(printed) if "train_runtime" in row), {})
    interval = _interval(text, rows, final)
    renamed = [
        {"step": float(interval * (index + 1))}
        | _numbers({ours: row[theirs] for theirs, ours in TRAINER_NAMES.items() if theirs in row})
        for index, row in enumerate(rows)
    ]
    return Curve(name or path.stem, renamed, final.get("train_runtime"), final)


def _interval(text: str, rows: list[dict[str, Any]], final: dict[str, float]) -> int:
    ends = [int(total) for done, total in _PROGRESS.findall(text) if done == total]
    if not rows or not ends or not final.get("epoch"):
        return 1
    steps = ends[-1] * rows[-1].get("epoch", final["epoch"]) / final["epoch"]
    return max(1, round(steps / len(rows)))


def _literal(text: str) -> dict[str, Any] | None:
    """A printed dictionary of plain values; None for anything else, and for nan and inf, which are no literals."""
    try:
        value = ast.literal_eval(re.sub(r"\b(nan|-?inf)\b", "None", text))
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, dict) else None


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The numeric columns; a null, the form of a number that was not finite, becomes NaN."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in row.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
