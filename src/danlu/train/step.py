"""One step: gradients of a whole global batch, then one update if they are finite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from danlu.ledger.signals import Stop
from danlu.train import parallel
from danlu.train.meter import Meter, Work
from danlu.train.network import Network
from danlu.train.objectives.base import Objective
from danlu.train.optim import Optimizer, clip
from danlu.train.parallel import World
from danlu.train.precision import LossScale, Masters

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch
    from danlu.tokens.stream import Step


@dataclass(frozen=True)
class Outcome:
    """What a step found, over all ranks."""

    sums: dict[str, float]
    grad_norm: float
    applied: bool
    stop: bool
    """Whether any rank was asked to stop."""


class CutShort(Exception):
    """Work was left unfinished on all processes, as one of them was asked to stop; nothing was changed by it."""


class DoesNotFit(Exception):
    """A micro-batch took more memory than there is, here or in another process; nothing was changed by its step.

    With `agreed` all processes know, and can go on together; else the others wait for this one inside of the network.
    """

    def __init__(self, agreed: bool) -> None:
        super().__init__()
        self.agreed = agreed


def work_of(step: Step) -> Work:
    """What a step computes."""
    computed = round(step.tokens / (1.0 - step.padding)) if step.padding < 1.0 else 0
    documents = [_documents(micro) for micro in (*step.micro, *step.aside)]
    lengths, shared = (np.concatenate(parts) for parts in zip(*documents, strict=True))
    return Work(computed, step.tokens, step.examples, (lengths + shared).tolist(), shared[shared > 0].tolist())


def _documents(micro: Batch[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the documents as they are laid out, and how much each shares with the one before it."""
    own, real = np.diff(micro.cu), micro.doc["index"] >= 0
    return own[real], micro.doc.get("shared", np.zeros_like(own))[real]


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
    stop: Stop = field(default_factory=Stop)

    def take(self, step: Step, rate: float, largest_norm: float | None) -> Outcome:
        """Accumulates the gradients of `step` and applies them at `rate`, unless loss or gradient is not finite.

        Raises DoesNotFit where a micro-batch runs out of memory, and CutShort where a process was asked to stop before
        its last micro-batch.
        """
        totals = self.accumulate(step)
        with self.meter.phase("communication"):
            *values, stops = self.world.total([*totals, float(self.stop.requested)])
        with self.meter.phase("optimizer"):
            norm = clip(self.masters.gradients(), largest_norm, self.scale.value, self.masters.norm)
            applied = all(map(math.isfinite, [*values, norm]))
            self.scale.update(applied)
            if applied:
                self.optimizer.step(rate)
                self.masters.publish(self.optimizer.updates, self.meter.phase("communication"))
            self.masters.clear_gradients()
        return Outcome(dict(zip(self.objective.sums, values, strict=True)), norm, applied, stops > 0)

    def accumulate(self, step: Step) -> list[float]:
        """Leaves the gradient of the step's loss, times the loss scale, in the masters; gives this rank's sums.

        Raises DoesNotFit and CutShort.
        """
        totals, fits = None, True
        try:
            totals = self._accumulated(step)
        except torch.OutOfMemoryError:
            fits = False
        if not fits:  # out here the traceback is gone, and with it what the step held
            self.masters.clear_gradients()
            torch.cuda.empty_cache()
            if parallel.exchanges_within(self.network):
                raise DoesNotFit(agreed=False)
        with self.meter.phase("communication"):
            self._agree(fits, cut=fits and totals is None)
            self.masters.sum_gradients()
        return totals or []

    def _accumulated(self, step: Step) -> list[float] | None:
        """This rank's sums; None where it was asked to stop on the way, unless others wait for it in each pass."""
        together = parallel.exchanges_within(self.network)
        factor = self.scale.value / self.objective.normaliser(step)
        totals = torch.zeros(len(self.objective.sums), dtype=torch.float64, device=self.world.device)
        with self.meter.phase("forward"):
            aside = [one.torch(self.world.device) for one in step.aside]
            objective = self.objective.prepared(self.network, aside, self._total)
        for micro in step.micro:
            if self.stop.requested and not together:
                return None
            with self.meter.phase("forward"):
                loss, sums = objective.compute(self.network, micro.torch(self.world.device), factor)
            with self.meter.phase("backward"):
                loss.backward()
            totals += torch.stack([value.double() for value in sums])
        return totals.tolist()

    def _total(self, values: list[float]) -> list[float]:
        with self.meter.phase("communication"):
            self._agree(fits=True)
            return self.world.total(values)

    def _agree(self, fits: bool, cut: bool = False) -> None:
        """What a step exchanges begins here, so that no process waits for one that has run out of memory or was asked
        to stop.
        """
        misfits, cuts = self.world.total([float(not fits), float(cut)])
        if misfits or cuts:
            self.masters.clear_gradients()
            raise CutShort if cuts else DoesNotFit(agreed=True)
