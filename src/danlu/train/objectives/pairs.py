"""What objectives over preference pairs share: which documents make a pair, and means over the pairs of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from danlu.ledger.metrics import Metric
from danlu.train.objectives.base import Forward

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch
    from danlu.tokens.stream import Step

OVER_PAIRS = "mean over pairs"


class OverPairs(ABC):
    """An objective whose loss and metrics are means over the pairs of the whole step."""

    name: ClassVar[str]
    schema: ClassVar[Mapping[str, Metric]]
    needs_reference = False

    @abstractmethod
    def of_pairs(self, network: Forward, batch: Batch[Tensor]) -> dict[str, Tensor]:
        """The loss of each pair [P] under "loss", and every other metric of `schema` of each pair."""

    @property
    def sums(self) -> tuple[str, ...]:
        return tuple(self.schema)

    def normaliser(self, step: Step) -> float:
        return float(step.pairs)

    def prepared(
        self, network: Forward, aside: Sequence[Batch[Tensor]], total: Callable[[list[float]], list[float]]
    ) -> Self:
        return self

    def compute(self, network: Forward, batch: Batch[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        found = self.of_pairs(network, batch)
        return found["loss"].sum() * factor, [found[name].detach().sum() for name in self.sums]

    def report(self, sums: Mapping[str, float], normaliser: float, text_bytes: int) -> dict[str, float]:
        return {name: sums[name] / normaliser for name in self.sums}


def rewards_schema(reward: str) -> dict[str, Metric]:
    """The metrics that the objectives over log-probabilities share; `reward` says what a reward is."""
    return {
        "loss": Metric("", OVER_PAIRS, "the preference loss"),
        "rewards_chosen": Metric("nats", OVER_PAIRS, f"{reward} of chosen answers"),
        "rewards_rejected": Metric("nats", OVER_PAIRS, "the same of rejected answers"),
        "rewards_margin": Metric("nats", OVER_PAIRS, "rewards_chosen - rewards_rejected"),
        "rewards_accuracy": Metric("share", OVER_PAIRS, "pairs whose chosen answer has the higher reward"),
        "logp_chosen": Metric("nats", OVER_PAIRS, "log-probability of chosen answers"),
        "logp_rejected": Metric("nats", OVER_PAIRS, "log-probability of rejected answers"),
    }


def rewards_of(chosen_P: Tensor, rejected_P: Tensor) -> dict[str, Tensor]:
    """The metrics of each pair [P] that follow from its two rewards."""
    return {
        "rewards_chosen": chosen_P,
        "rewards_rejected": rejected_P,
        "rewards_margin": chosen_P - rejected_P,
        "rewards_accuracy": (chosen_P > rejected_P).to(chosen_P.dtype),
    }


def document_logp(network: Forward, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
    """Each document's summed log-probability of its targets [D] and their number [D], float64.

    Summed in float32, a long answer's some -1,000 nats would have steps of 6e-5, which is more than a small margin.
    """
    logp_N = network(batch, needs="logp")["logp"].double()
    slot_N = batch.document[batch.targets].long()
    counted_N = (batch.target_weights != 0).to(logp_N.dtype)
    zeros_D = logp_N.new_zeros(len(batch.cu) - 1)
    return zeros_D.index_add(0, slot_N, logp_N * counted_N), zeros_D.index_add(0, slot_N, counted_N)


def pair_slots(batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
    """Document slots of the chosen and the rejected answer of each pair [P], in the pairs' order.

    Raises ValueError where a pair is not whole.
    """
    pair_D, is_chosen_D = batch.doc["pair"], batch.doc["chosen"].bool()
    chosen, rejected = (torch.nonzero((pair_D >= 0) & (is_chosen_D == side)).flatten() for side in (True, False))
    chosen, rejected = chosen[pair_D[chosen].argsort()], rejected[pair_D[rejected].argsort()]
    if not torch.equal(pair_D[chosen], pair_D[rejected]):
        raise ValueError("a preference pair is cut apart in this micro-batch")
    return chosen, rejected
