"""Direct preference optimisation: chosen answers over rejected ones, measured against the starting weights.

Rafailov et al. 2023 (arXiv 2305.18290); IPO of Azar et al. 2023 (arXiv 2310.12036); hinge as in SLiC
(arXiv 2305.10425); label smoothing as in cDPO (Mitchell 2023, ericmitchell.ai/cdpo.pdf).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from danlu.train.objectives.base import Forward
from danlu.train.objectives.pairs import OverPairs, document_logp, pair_slots, rewards_of, rewards_schema
from danlu.train.preference_settings import DPOTrainSettings

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch


class DPO(OverPairs):
    """The chosen loss over preference pairs."""

    name = "dpo"
    needs_reference = True
    schema = rewards_schema("beta * (log-probability - reference's)")

    def __init__(self, settings: DPOTrainSettings) -> None:
        self._beta, self._loss, self._smoothing = settings.beta, settings.loss, settings.label_smoothing

    def of_pairs(self, network: Forward, batch: Batch[Tensor]) -> dict[str, Tensor]:
        logp_D, length_D = document_logp(network, batch)
        chosen_P, rejected_P = pair_slots(batch)
        gain_D = logp_D - batch.doc["reference"]
        return {
            "loss": self.losses(gain_D, length_D, chosen_P, rejected_P),
            **rewards_of(self._beta * gain_D[chosen_P], self._beta * gain_D[rejected_P]),
            "logp_chosen": logp_D[chosen_P],
            "logp_rejected": logp_D[rejected_P],
        }

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
