"""A reward model: the probability that one answer is better than another, from the difference of their rewards.

Bradley and Terry 1952 as in Ouyang et al. 2022 (arXiv 2203.02155); margins as in Llama 2 (Touvron et al. 2023,
arXiv 2307.09288); centred rewards as in Eisenstein et al. 2023 (arXiv 2312.09244).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional

from danlu.ledger.errors import UserError
from danlu.ledger.metrics import Metric
from danlu.train.objectives.base import Forward
from danlu.train.objectives.pairs import OVER_PAIRS, OverPairs, pair_slots, rewards_of
from danlu.train.preference_settings import RewardTrainSettings

if TYPE_CHECKING:
    from danlu.text.records import Message
    from danlu.tokens.batch import Batch
    from danlu.tokens.template import Template

MARGIN = "margin"
"""The column of documents that holds the margin of their pair; absent where none is asked for."""


def require_own_padding(template: Template) -> None:
    """Raises UserError where answers end in the padding token: transformers scores the last token that is not padding,
    and would look at another one than the answer's last.
    """
    asked: list[Message] = [{"role": "user", "content": "1"}]
    answered = template.encode_answer(asked, [{"role": "assistant", "content": "1"}])
    if int(answered.tokens[-1]) == template.tokenizer.pad_id:
        raise UserError(
            f"answers end in {template.tokenizer.token(int(answered.tokens[-1]))}, which is the padding token too",
            where=template.tokenizer.origin,
            do="name another special token as pad_token in the tokenizer's tokenizer_config.json",
        )


class Reward(OverPairs):
    """-log sigmoid(chosen - rejected - margin) + center * (chosen + rejected)² of each pair."""

    name = "reward"
    schema: ClassVar[dict[str, Metric]] = {
        "loss": Metric("", OVER_PAIRS, "the preference loss"),
        "rewards_chosen": Metric("", OVER_PAIRS, "reward of chosen answers"),
        "rewards_rejected": Metric("", OVER_PAIRS, "reward of rejected answers"),
        "rewards_margin": Metric("", OVER_PAIRS, "rewards_chosen - rewards_rejected"),
        "rewards_accuracy": Metric("share", OVER_PAIRS, "pairs whose chosen answer has the higher reward"),
    }

    def __init__(self, settings: RewardTrainSettings) -> None:
        self._center = settings.center

    def of_pairs(self, network: Forward, batch: Batch[Tensor]) -> dict[str, Tensor]:
        reward_D = network(batch, needs="value")["value"]
        slots = pair_slots(batch)
        chosen_P, rejected_P = (reward_D[slot] for slot in slots)
        apart_P = chosen_P - rejected_P
        if MARGIN in batch.doc:
            apart_P = apart_P - batch.doc[MARGIN][slots[0]].to(apart_P.dtype)
        loss_P = -functional.logsigmoid(apart_P) + self._center * (chosen_P + rejected_P).square()
        return {"loss": loss_P, **rewards_of(chosen_P, rejected_P)}
