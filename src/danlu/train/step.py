"""One step: gradients of a whole global batch, then one update if they are finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from danlu.train import parallel
from danlu.train.meter import Meter
from danlu.train.network import Network
from danlu.train.objectives.base import Objective
from danlu.train.optim import Optimizer, clip
from danlu.train.parallel import World
from danlu.train.precision import LossScale, Masters
from danlu.train.settings import Sharding

if TYPE_CHECKING:
    from danlu.tokens.stream import Step


@dataclass(frozen=True)
class Outcome:
    """What a step found, over all ranks."""

    sums: dict[str, float]
    grad_norm: float
    applied: bool
    stop: bool
    """Whether any rank was asked to stop."""


class DoesNotFit(Exception):
    """A micro-batch took more memory than there is; nothing was changed by its step."""


@dataclass
class Stepper:
    """All that a step moves."""

    network: Network
    objective: Objective
    masters: Masters
    optimizer: Optimizer
    scale: LossScale
    world: World
    meter: Meter
    sharding: Sharding | None

    def take(self, step: Step, rate: float, largest_norm: float | None, stop: bool = False) -> Outcome:
        """Accumulates the gradients of `step` and applies them at `rate`, unless loss or gradient is not finite.

        Raises DoesNotFit where a micro-batch runs out of memory.
        """
        with self.meter.phase("compute"):
            totals = self._accumulated(step)
            *values, stops = self.world.total([*totals, float(stop)])
        with self.meter.phase("optimizer"):
            norm = clip(self.masters.gradients(), largest_norm, self.scale.value)
            applied = all(map(math.isfinite, [*values, norm]))
            self.scale.update(applied)
            if applied:
                self.optimizer.step(rate)
                self.masters.publish()
            self.masters.clear_gradients()
        return Outcome(dict(zip(self.objective.sums, values, strict=True)), norm, applied, stops > 0)

    def _accumulated(self, step: Step) -> list[float]:
        try:
            return self.accumulate(step)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        # Out here the traceback is gone, and with it what the step held.
        self.masters.clear_gradients()
        torch.cuda.empty_cache()
        raise DoesNotFit(reason)

    def accumulate(self, step: Step) -> list[float]:
        """Leaves the gradient of the step's loss, times the loss scale, in the masters; gives this rank's sums."""
        factor = self.scale.value / self.objective.normaliser(step)
        totals = torch.zeros(len(self.objective.sums), dtype=torch.float64, device=self.world.device)
        device, aside = self.world.device, step.aside
        objective = self.objective.prepared(self.network, [one.torch(device) for one in aside], self.world.total)
        for number, micro in enumerate(step.micro, 1):
            parallel.exchange(self.network, self.sharding, last=number == len(step.micro))
            loss, sums = objective.compute(self.network, micro.torch(device), factor)
            loss.backward()
            totals += torch.stack([value.double() for value in sums])
        if self.sharding in (None, "none"):
            parallel.add_up(self.masters.gradients(), self.world)
        return totals.tolist()
