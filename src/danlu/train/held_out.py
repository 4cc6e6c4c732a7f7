"""The loss on held-out data, by source, by tag and over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from danlu.ledger.metrics import Metric
from danlu.ledger.signals import Stop
from danlu.tokens.tagged import tagged
from danlu.train.network import Network
from danlu.train.objectives.base import Objective
from danlu.train.parallel import World
from danlu.train.step import CutShort, DoesNotFit

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream

ALL = "all"


def schema(objective: Objective) -> dict[str, Metric]:
    """The columns of a held-out row: `source` or `tag`, and the objective's metrics under held_out_ names."""
    named = {f"held_out_{name}": metric for name, metric in objective.schema.items()}
    return {
        "source": Metric("", "", f"held-out source of the row; {ALL}: all of them together"),
        "tag": Metric("", "", "tag of the held-out records of the row, such as region=四川; of all sources"),
        **named,
    }


@torch.no_grad()
def measure(
    network: Network,
    objective: Objective,
    streams: Mapping[str, Stream],
    batch: int,
    rows: int,
    world: World,
    stop: Stop,
) -> dict[str, dict[str, float]]:
    """{source: {held_out_…: value}}, with "all" last; empty without streams. Nothing is trained.

    Raises CutShort where a process is asked to stop, and DoesNotFit where one runs out of memory.
    """
    results: dict[str, dict[str, float]] = {}
    everything: Counter[str] = Counter()
    for source, stream in streams.items():
        found = _sums(network, objective, stream, batch, rows, world, stop)
        if found["normaliser"]:
            results[source] = _report(objective, found)
            everything.update(found)
    if everything["normaliser"]:
        results[ALL] = _report(objective, everything)
    return results


def by_tag(streams: Mapping[str, Stream], names: Sequence[str]) -> dict[str, list[Stream]]:
    """{"region=四川": the parts of the streams with this tag}, for the tags `names`. Raises UserError for windows."""
    found: dict[str, list[Stream]] = {}
    for stream in streams.values() if names else ():
        for tag, part in tagged(stream, names).items():
            found.setdefault(tag, []).append(part)
    return found


@torch.no_grad()
def measure_tags(
    network: Network,
    objective: Objective,
    tags: Mapping[str, Sequence[Stream]],
    batch: int,
    rows: int,
    world: World,
    stop: Stop,
) -> dict[str, dict[str, float]]:
    """{tag: {held_out_…: value}} of what `by_tag` gave. Raises as `measure` does."""
    results: dict[str, dict[str, float]] = {}
    for tag, streams in tags.items():
        found: Counter[str] = Counter()
        for stream in streams:
            found.update(_sums(network, objective, stream, batch, rows, world, stop))
        if found["normaliser"]:
            results[tag] = _report(objective, found)
    return results


def _sums(
    network: Network, objective: Objective, stream: Stream, batch: int, rows: int, world: World, stop: Stop
) -> dict[str, float]:
    network.eval()
    try:
        return _measured(network, objective, stream, batch, rows, world, stop)
    except torch.OutOfMemoryError:
        pass
    finally:
        network.train()
    torch.cuda.empty_cache()  # out here the traceback is gone, and with it what was held
    raise DoesNotFit(agreed=world.size == 1)


def _measured(
    network: Network, objective: Objective, stream: Stream, batch: int, rows: int, world: World, stop: Stop
) -> dict[str, float]:
    totals = torch.zeros(len(objective.sums), dtype=torch.float64, device=world.device)
    normaliser = text_bytes = 0.0
    for step in stream.steps(0, batch, world.rank, world.size, rows):
        normaliser += objective.normaliser(step)
        text_bytes += step.text_bytes
        aside = [micro.torch(world.device) for micro in step.aside]
        prepared = objective.prepared(network, aside, world.total)
        for micro in step.micro:
            if world.any(stop.requested):
                raise CutShort
            _, sums = prepared.compute(network, micro.torch(world.device))
            totals += torch.stack([value.double() for value in sums])
    named = dict(zip(objective.sums, world.total(totals.tolist()), strict=True))
    return {**named, "normaliser": normaliser, "text_bytes": text_bytes}


def _report(objective: Objective, found: Mapping[str, float]) -> dict[str, float]:
    metrics = objective.report(found, found["normaliser"], int(found["text_bytes"]))
    return {f"held_out_{name}": value for name, value in metrics.items()}
