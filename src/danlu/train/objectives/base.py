"""What an objective is: a sum over each micro-batch, a normaliser known beforehand, and metrics made of sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, Self

from torch import Tensor

from danlu.ledger.metrics import Metric

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch
    from danlu.tokens.stream import Step


Needs = Literal["nll", "logp", "value"]


class Forward(Protocol):
    """The network as an objective sees it."""

    def __call__(self, batch: Batch[Tensor], needs: Needs, factor: float = 1.0) -> dict[str, Tensor]:
        """What the head gives for `batch.targets`: "logp" [N] and "correct" bool [N]; with "nll" that, the weighted
        sum times `factor`, too, and gradients go through it instead: the head makes them at once, so it is to be
        differentiated as it is, once, and what it is multiplied by goes into `factor`. A reward model gives "value"
        [D], a number for each document, from its last token.
        """
        ...


class Objective(Protocol):
    """What is minimised. The loss of a step is the sum of `compute` over all micro-batches of all ranks, divided by
    `normaliser`; so neither micro-batches nor ranks nor packing change it.
    """

    @property
    def name(self) -> str: ...

    @property
    def sums(self) -> tuple[str, ...]:
        """What `compute` gives for metrics, in order."""

    @property
    def schema(self) -> Mapping[str, Metric]:
        """What `report` gives."""

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry `doc["reference"]`, the starting weights' log-probability of each document."""

    def normaliser(self, step: Step) -> float:
        """What the sum of a whole step is divided by, over all ranks; known on the host."""
        ...

    def prepared(
        self, network: Forward, aside: Sequence[Batch[Tensor]], total: Callable[[list[float]], list[float]]
    ) -> Self:
        """What `compute` is asked of for one step: itself, or with what has to be known of the whole step before.

        `aside` are the step's micro-batches on this rank that nothing is learned from; `total` sums over ranks.
        """
        ...

    def compute(self, network: Forward, batch: Batch[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        """The loss summed over a micro-batch times `factor`, to be differentiated, and the detached `sums`.

        `factor` comes in here because a gradient that is multiplied later is rounded a second time.
        """
        ...

    def report(self, sums: Mapping[str, float], normaliser: float, text_bytes: int) -> dict[str, float]:
        """Metrics from sums over any number of steps; "loss" is among them."""
        ...
