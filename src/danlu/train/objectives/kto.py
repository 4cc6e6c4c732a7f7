"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): answers that are good or bad by themselves,
measured against the starting weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from danlu.ledger.metrics import Metric
from danlu.train.objectives.base import Forward
from danlu.train.objectives.pairs import document_logp
from danlu.train.preference_settings import KTOTrainSettings

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch
    from danlu.tokens.stream import Step

_ANSWERS = "mean over answers"


class KTO:
    """weight * (1 - sigmoid(beta * (gain - kl))) of a good answer, weight * (1 - sigmoid(beta * (kl - gain))) of a bad
    one, as a mean over the answers of the whole step (the paper's equations 7 and 8).

    `gain` is the answer's log-probability less the reference's. `kl`, how far the model is from the reference, is the
    mean gain of answers that were given to other prompts, at least 0, over the whole step: nothing learns from it.
    """

    name = "kto"
    sums = ("loss", "good", "good_rewards", "bad_rewards", "good_logp", "bad_logp", "above", "kl")
    needs_reference = True
    schema: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("", _ANSWERS, "the preference loss"),
        "kl": Metric("nats", _ANSWERS, "estimate of the distance to the reference, never below 0"),
        "rewards_chosen": Metric("nats", "mean over good answers", "beta * (log-probability - reference's)"),
        "rewards_rejected": Metric("nats", "mean over bad answers", "the same"),
        "rewards_margin": Metric("nats", "difference", "rewards_chosen - rewards_rejected"),
        "rewards_accuracy": Metric("share", _ANSWERS, "good answers above beta * kl and bad ones not above it"),
        "logp_chosen": Metric("nats", "mean over good answers", "log-probability"),
        "logp_rejected": Metric("nats", "mean over bad answers", "log-probability"),
    }

    def __init__(self, settings: KTOTrainSettings) -> None:
        self._beta, self._kl = settings.beta, 0.0
        self._good_weight, self._bad_weight = settings.desirable_weight, settings.undesirable_weight

    def normaliser(self, step: Step) -> float:
        return float(step.pairs)

    @torch.no_grad()
    def prepared(
        self, network: Forward, aside: Sequence[Batch[Tensor]], total: Callable[[list[float]], list[float]]
    ) -> Self:
        gains, count = 0.0, 0
        for batch in aside:
            logp_D, _ = document_logp(network, batch)
            other_D = batch.doc["chosen"] < 0
            gains += float((logp_D - batch.doc["reference"])[other_D].sum())
            count += int(other_D.sum())
        gains, counted = total([gains, float(count)])
        made = copy(self)
        made._kl = max(0.0, gains / max(counted, 1.0))
        return made

    def compute(self, network: Forward, batch: Batch[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        logp_D, _ = document_logp(network, batch)
        gain_D = logp_D - batch.doc["reference"]
        answer_D = batch.doc["pair"] >= 0
        good_D, bad_D = ((answer_D & (batch.doc["chosen"] == label)).to(gain_D.dtype) for label in (1, 0))
        weight_D = self._good_weight * good_D + self._bad_weight * bad_D
        # 1 - sigmoid(x) is sigmoid(-x)
        loss = (weight_D * torch.sigmoid(self._beta * (bad_D - good_D) * (gain_D - self._kl))).sum()
        gain_D, logp_D = gain_D.detach(), logp_D.detach()
        above_D = (gain_D > self._kl).to(gain_D.dtype)
        return loss * factor, [
            loss.detach(),
            good_D.sum(),
            self._beta * (gain_D * good_D).sum(),
            self._beta * (gain_D * bad_D).sum(),
            (logp_D * good_D).sum(),
            (logp_D * bad_D).sum(),
            (above_D * good_D + (1 - above_D) * bad_D).sum(),
            self._kl * (good_D + bad_D).sum(),
        ]

    def report(self, sums: Mapping[str, float], normaliser: float, text_bytes: int) -> dict[str, float]:
        good, bad = max(sums["good"], 1.0), max(normaliser - sums["good"], 1.0)
        found = {
            "loss": sums["loss"] / normaliser,
            "kl": sums["kl"] / normaliser,
            "rewards_chosen": sums["good_rewards"] / good,
            "rewards_rejected": sums["bad_rewards"] / bad,
            "rewards_accuracy": sums["above"] / normaliser,
            "logp_chosen": sums["good_logp"] / good,
            "logp_rejected": sums["bad_logp"] / bad,
        }
        return {**found, "rewards_margin": found["rewards_chosen"] - found["rewards_rejected"]}
