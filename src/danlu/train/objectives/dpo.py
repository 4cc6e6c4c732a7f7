"""Direct preference optimisation: chosen answers over rejected ones, measured against the starting weights.

Rafailov et al. 2023 (arXiv 2305.18290); IPO of Azar et al. 2023 (arXiv 2310.12036); hinge as in SLiC
(arXiv 2305.10425); label smoothing as in cDPO (Mitchell 2023, ericmitchell.ai/cdpo.pdf).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from danlu.ledger.metrics import Metric
from danlu.train.objectives.base import Forward
from danlu.train.settings import DPOTrainSettings

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch
    from danlu.tokens.stream import Step


class DPO:
    """The chosen loss over preference pairs, as a mean over the pairs of the whole step."""

    name = "dpo"
    sums = ("loss", "chosen", "rejected", "correct", "chosen_logp", "rejected_logp")
    needs_reference = True
    schema: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("", "mean over pairs", "the preference loss"),
        "rewards_chosen": Metric("nats", "mean over pairs", "beta * (log-probability - reference's) of chosen answers"),
        "rewards_rejected": Metric("nats", "mean over pairs", "the same of rejected answers"),
        "rewards_margin": Metric("nats", "mean over pairs", "rewards_chosen - rewards_rejected"),
        "rewards_accuracy": Metric("share", "mean over pairs", "pairs whose chosen answer has the higher reward"),
        "logp_chosen": Metric("nats", "mean over pairs", "log-probability of chosen answers"),
        "logp_rejected": Metric("nats", "mean over pairs", "log-probability of rejected answers"),
    }

    def __init__(self, settings: DPOTrainSettings) -> None:
        self._beta, self._loss, self._smoothing = settings.beta, settings.loss, settings.label_smoothing

    def normaliser(self, step: Step) -> float:
        return float(step.pairs)

    def compute(self, network: Forward, batch: Batch[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        logp_D, length_D = document_logp(network, batch)
        chosen_P, rejected_P = pair_slots(batch)
        reference_D = batch.doc["reference"].to(logp_D.dtype)
        gain_D = logp_D - reference_D
        losses_P = self.losses(gain_D, length_D, chosen_P, rejected_P)
        with torch.no_grad():
            rewards_D = self._beta * gain_D
            chosen, rejected = rewards_D[chosen_P], rewards_D[rejected_P]
            sums = [
                losses_P.sum(),
                chosen.sum(),
                rejected.sum(),
                (chosen > rejected).sum(),
                logp_D[chosen_P].sum(),
                logp_D[rejected_P].sum(),
            ]
        return losses_P.sum() * factor, sums

    def losses(self, gain_D: Tensor, length_D: Tensor, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        """The loss of each pair [P]. `gain_D` is a document's log-probability less the reference's, `length_D` its
        answer's tokens; `chosen_P` and `rejected_P` are document slots.
        """
        if self._loss == "ipo":  # over mean log-probabilities, so that beta means the same at any length
            mean_D = gain_D / length_D.clamp(min=1)
            return (mean_D[chosen_P] - mean_D[rejected_P] - 1 / (2 * self._beta)).square()
        margin_P = self._beta * (gain_D[chosen_P] - gain_D[rejected_P])
        if self._loss == "hinge":
            return torch.relu(1 - margin_P)
        right = functional.logsigmoid(margin_P)
        return -(1 - self._smoothing) * right - self._smoothing * functional.logsigmoid(-margin_P)

    def report(self, sums: Mapping[str, float], normaliser: float, text_bytes: int) -> dict[str, float]:
        return {
            "loss": sums["loss"] / normaliser,
            "rewards_chosen": sums["chosen"] / normaliser,
            "rewards_rejected": sums["rejected"] / normaliser,
            "rewards_margin": (sums["chosen"] - sums["rejected"]) / normaliser,
            "rewards_accuracy": sums["correct"] / normaliser,
            "logp_chosen": sums["chosen_logp"] / normaliser,
            "logp_rejected": sums["rejected_logp"] / normaliser,
        }


def document_logp(network: Forward, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
    """Each document's summed log-probability of its targets [D] and their number [D]."""
    logp_N = network(batch, needs="logp")["logp"]
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
