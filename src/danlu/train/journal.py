"""metrics.jsonl and its followers, written by the main process alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from danlu.ledger.metrics import Metric, MetricsWriter, cut_back
from danlu.train import held_out, meter
from danlu.train.objectives.base import Objective
from danlu.train.parallel import World
from danlu.train.settings import TrainSettings
from danlu.train.trackers import Trackers

METRICS = "metrics.jsonl"
SHOWN = ("loss", "bits_per_byte", "rewards_accuracy", "learning_rate", "tokens_per_second", "mfu", "ceiling_share")

SCHEMA = {
    "consumed": Metric("examples", "total", "position in the stream after the step"),
    "tokens": Metric("tokens", "total", "tokens seen so far, padding left out"),
    "epoch": Metric("epochs", "total", "passes over the data so far"),
    "examples": Metric("examples", "sum over ranks", "examples in the step"),
    "learning_rate": Metric("", "value", "learning rate of the step"),
    "grad_norm": Metric("", "global norm", "norm of the whole gradient before clipping"),
    "loss_scale": Metric("", "value", "what the loss was multiplied by in fp16; else 1"),
    "non_finite": Metric("steps", "total", "steps left out so far because loss or gradient was not finite"),
}


class Journal:
    """Writes rows, and remembers the newest values to show. Rows after step `begin` of an earlier line are cut off
    first.
    """

    def __init__(
        self,
        out: Path,
        objective: Objective,
        settings: TrainSettings,
        config: Mapping[str, Any],
        begin: int,
        world: World,
    ) -> None:
        self.shown: dict[str, object] = {}
        self._writer: MetricsWriter | None = None
        self._trackers = Trackers(settings.trackers if world.main else [], out, config)
        if world.main:
            cut_back(out / METRICS, begin)
            schema = {**SCHEMA, **objective.schema, **meter.SCHEMA, **held_out.schema(objective)}
            self._writer = MetricsWriter(out / METRICS, schema)

    def write(self, step: int, **values: Any) -> None:
        """Adds a row of metrics of `step`."""
        self.shown.update({name: values[name] for name in SHOWN if name in values})
        if self._writer is not None:
            self._writer.write(step, **values)
            self._trackers.write(step, values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._trackers.close()
        if self._writer is not None:
            self._writer.close()
