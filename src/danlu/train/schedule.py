"""How the learning rate and the batch move through a run: pure functions of the position in the stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from danlu.train.settings import TrainSettings

if TYPE_CHECKING:
    from danlu.tokens.stream import Step, Stream


@dataclass(frozen=True)
class Plan:
    """How far a run goes. `budget` is the position at which it ends, in examples; `steps` what that is in full
    batches.
    """

    budget: int
    steps: int

    @classmethod
    def of(cls, settings: TrainSettings, total: int) -> Plan:
        """The plan for a stream of `total` examples over all epochs."""
        budget = min(total, settings.steps * settings.batch) if settings.steps else total
        return cls(budget, math.ceil(budget / settings.batch))


def more_than_an_epoch(settings: TrainSettings, plan: Plan, epoch: int) -> str | None:
    """What to tell who asks for steps of more than the `epoch` examples that there are."""
    if settings.batch <= epoch:
        return None
    count = "1 step" if plan.steps == 1 else f"{plan.steps:,} steps"
    return (
        f"batch {settings.batch:,} is more than the {epoch:,} examples that there are, so a step takes all of the data "
        f"and the run has {count}: nothing is shown before the first has ended. Lower `batch` for more and shorter ones"
    )


def steps(
    stream: Stream, settings: TrainSettings, plan: Plan, position: int, tokens: int, rank: int, world: int, rows: int
) -> Iterator[Step]:
    """One rank's steps from `position`, before which `tokens` tokens were seen, to the end of the plan."""
    while position < plan.budget:
        count = min(batch_size(settings, tokens), plan.budget - position)
        step = stream.step(position, count, rank, world, rows)
        yield step
        position, tokens = step.consumed, tokens + step.tokens


def batch_size(settings: TrainSettings, tokens: int) -> int:
    """Examples in the step that begins after `tokens` tokens."""
    return next((stage.batch for stage in settings.batch_ramp if tokens < stage.tokens), settings.batch)


def learning_rate(settings: TrainSettings, plan: Plan, position: int) -> float:
    """The rate of the step that begins at `position`; `position` / `batch` is its number where the batch is constant.

    Warmup over w steps gives step s the share (s + 1) / (w + 1); then the shape of the schedule goes from 1 at step w
    to the floor at the end of the plan. wsd falls as 1 - sqrt(share of the decay) (Hägele et al. 2024,
    arXiv 2405.18392).
    """
    step = position / settings.batch
    warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * plan.steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    left = plan.steps - warmup
    done = min((step - warmup) / left, 1.0) if left > 0 else 1.0
    if settings.schedule == "wsd":
        start = max(1.0 - settings.decay * plan.steps / left, 0.0) if left > 0 else 0.0
        done = max(done - start, 0.0) / (1.0 - start)
    fall = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "linear": 1.0 - done,
        "wsd": 1.0 - math.sqrt(done),
        "constant": 1.0,
    }[settings.schedule]
    return settings.learning_rate * (settings.floor + (1.0 - settings.floor) * fall)
