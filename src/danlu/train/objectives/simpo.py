"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734): mean log-probabilities and a target margin; no
reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from danlu.train.objectives.base import Forward
from danlu.train.objectives.pairs import OverPairs, document_logp, pair_slots, rewards_of, rewards_schema
from danlu.train.preference_settings import SimPOTrainSettings

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch


class SimPO(OverPairs):
    """-log sigmoid(beta * mean logp(chosen) - beta * mean logp(rejected) - gamma) of each pair (equation 6)."""

    name = "simpo"
    schema = rewards_schema("beta * mean log-probability of a token")

    def __init__(self, settings: SimPOTrainSettings) -> None:
        self._beta, self._gamma = settings.beta, settings.gamma

    def of_pairs(self, network: Forward, batch: Batch[Tensor]) -> dict[str, Tensor]:
        logp_D, length_D = document_logp(network, batch)
        chosen_P, rejected_P = pair_slots(batch)
        reward_D = self._beta * logp_D / length_D.clamp(min=1)
        return {
            "loss": -functional.logsigmoid(reward_D[chosen_P] - reward_D[rejected_P] - self._gamma),
            **rewards_of(reward_D[chosen_P], reward_D[rejected_P]),
            "logp_chosen": logp_D[chosen_P],
            "logp_rejected": logp_D[rejected_P],
        }
