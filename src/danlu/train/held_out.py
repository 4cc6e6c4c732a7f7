"""The loss on held-out data, by source and over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from danlu.ledger.metrics import Metric
from danlu.train.network import Network
from danlu.train.objectives.base import Objective
from danlu.train.parallel import World

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream

ALL = "all"


def schema(objective: Objective) -> dict[str, Metric]:
    """The columns of a held-out row: `source` and the objective's metrics under held_out_ names."""
    named = {f"held_out_{name}": metric for name, metric in objective.schema.items()}
    return {"source": Metric("", "", f"held-out source of the row; {ALL}: all of them together"), **named}


@torch.no_grad()
def measure(
    network: Network, objective: Objective, streams: Mapping[str, Stream], batch: int, rows: int, world: World
) -> dict[str, dict[str, float]]:
    """{source: {held_out_…: value}}, with "all" last; empty without streams. Nothing is trained."""
    results: dict[str, dict[str, float]] = {}
    everything: Counter[str] = Counter()
    for source, stream in streams.items():
        found = _sums(network, objective, stream, batch, rows, world)
        if found["normaliser"]:
            results[source] = _report(objective, found)
            everything.update(found)
    if everything["normaliser"]:
        results[ALL] = _report(objective, everything)
    return results


def _sums(
    network: Network, objective: Objective, stream: Stream, batch: int, rows: int, world: World
) -> dict[str, float]:
    totals = torch.zeros(len(objective.sums), dtype=torch.float64, device=world.device)
    normaliser = text_bytes = 0.0
    for step in stream.steps(0, batch, world.rank, world.size, rows):
        normaliser += objective.normaliser(step)
        text_bytes += step.text_bytes
        for micro in step.micro:
            _, sums = objective.compute(network, micro.torch(world.device))
            totals += torch.stack([value.double() for value in sums])
    named = dict(zip(objective.sums, world.total(totals.tolist()), strict=True))
    return {**named, "normaliser": normaliser, "text_bytes": text_bytes}


def _report(objective: Objective, found: Mapping[str, float]) -> dict[str, float]:
    metrics = objective.report(found, found["normaliser"], int(found["text_bytes"]))
    return {f"held_out_{name}": value for name, value in metrics.items()}
