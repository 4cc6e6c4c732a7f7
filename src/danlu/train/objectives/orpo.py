"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691): learn the chosen answer, and raise its odds
over the rejected one's; no reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from danlu.ledger.metrics import Metric
from danlu.train.objectives.base import Forward
from danlu.train.objectives.pairs import OVER_PAIRS, OverPairs, document_logp, pair_slots, rewards_of, rewards_schema
from danlu.train.preference_settings import ORPOTrainSettings

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch


class ORPO(OverPairs):
    """-mean logp(chosen) - beta * log sigmoid(log odds(chosen) - log odds(rejected)) of each pair (the paper's
    equations 4 to 7), P of an answer being the geometric mean over its tokens.
    """

    name = "orpo"
    schema: ClassVar[dict[str, Metric]] = {
        **rewards_schema("beta * mean log-probability of a token"),
        "nll": Metric("nats/token", OVER_PAIRS, "negative log-likelihood of chosen answers"),
        "log_odds_ratio": Metric("", OVER_PAIRS, "log of the odds of chosen answers over those of rejected ones"),
    }

    def __init__(self, settings: ORPOTrainSettings) -> None:
        self._beta = settings.beta

    def of_pairs(self, network: Forward, batch: Batch[Tensor]) -> dict[str, Tensor]:
        logp_D, length_D = document_logp(network, batch)
        chosen_P, rejected_P = pair_slots(batch)
        mean_D = logp_D / length_D.clamp(min=1)
        mean_chosen, mean_rejected = mean_D[chosen_P], mean_D[rejected_P]
        ratio_P = log_odds(mean_chosen) - log_odds(mean_rejected)
        return {
            "loss": -mean_chosen - self._beta * functional.logsigmoid(ratio_P),
            **rewards_of(self._beta * mean_chosen, self._beta * mean_rejected),
            "logp_chosen": logp_D[chosen_P],
            "logp_rejected": logp_D[rejected_P],
            "nll": -mean_chosen,
            "log_odds_ratio": ratio_P,
        }


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of log-probabilities; of p = 1 that of the float next to it."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).tiny)
    return logp - torch.log(-torch.expm1(logp))
