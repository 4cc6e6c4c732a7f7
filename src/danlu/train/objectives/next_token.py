"""Next-token prediction, for pretraining and supervised fine-tuning: which tokens count is said by their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from danlu.ledger.metrics import Metric
from danlu.train.objectives.base import Forward

if TYPE_CHECKING:
    from danlu.tokens.batch import Batch
    from danlu.tokens.stream import Step


class NextToken:
    """Sum of w(t) * -log p(t) over the targets, divided by the sum of their weights in the whole step."""

    name = "next_token"
    sums = ("nll", "correct", "targets", "text_nll")
    needs_reference = False
    schema: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("nats/token", "weighted mean", "negative log-likelihood of the tokens in the loss"),
        "accuracy": Metric("share", "sum / sum", "tokens in the loss that the model holds for the likeliest"),
        "bits_per_byte": Metric(
            "bits/byte",
            "sum / sum",
            "bits of the tokens in the loss that spell text, over the UTF-8 bytes they spell",
        ),
    }

    def normaliser(self, step: Step) -> float:
        return step.weight_sum

    def prepared(
        self, network: Forward, aside: Sequence[Batch[Tensor]], total: Callable[[list[float]], list[float]]
    ) -> Self:
        return self

    def compute(self, network: Forward, batch: Batch[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        out = network(batch, needs="nll", factor=factor)
        counted_N = batch.target_weights != 0
        correct, text_nll = (out["correct"] & counted_N).sum(), -(out["logp"].detach() * batch.target_text).sum()
        return out["nll"], [out["nll"].detach() / factor, correct, counted_N.sum(), text_nll]

    def report(self, sums: Mapping[str, float], normaliser: float, text_bytes: int) -> dict[str, float]:
        metrics = {"loss": sums["nll"] / normaliser, "accuracy": sums["correct"] / max(sums["targets"], 1.0)}
        if text_bytes:
            metrics["bits_per_byte"] = sums["text_nll"] / math.log(2) / text_bytes
        return metrics
