"""How far two forms of a model agree: merged and not, quantised and not, ours and another program's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from danlu.infer.engine import Engine
from danlu.infer.score import hidden_states
from danlu.infer.settings import SamplingSettings
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file

if TYPE_CHECKING:
    from danlu.evaluate.reward_agreement import RewardAgreement
    from danlu.tokens.tokenizer import Tokenizer

FILE = "agreement.json"
GREEDY = 32  # tokens that each form goes on by itself
LEAST_TOP1, MOST_KL = 0.95, 0.02  # beyond both of these a form is another model

TEXTS = (
    "秋天的早晨，湖面上起了一层薄雾，渔夫把船推进水里，",
    "把下面这句话翻译成英文：今天的会议改到下午三点。",
    "问：为什么天空是蓝色的？\n答：",
    "请列出三种常见的排序算法，并说明它们的时间复杂度。",
    "北京和上海之间的高速铁路全长约一千三百公里，",
    "def 最大公约数(a, b):\n    while b:\n",
    "她打开那封信，发现里面只有一行字：",
    "计算：(12 + 8) × 5 = ",
    "In the autumn of that year the river rose higher than anyone in the town could remember, and",
    "Translate into Chinese: The library closes at nine on weekdays.",
    "Q: Why does ice float on water?\nA:",
    "Write a short letter to a neighbour about a parcel that was left at the wrong door.",
    "The train from Vienna to Prague takes about four hours and stops at",
    "def fibonacci(n):\n    if n < 2:\n",
    "He opened the drawer, took out the old map, and said:",
    "The capital of France is",
)
"""Beginnings in both languages, for a model that brings no held-out texts."""


class Form(Protocol):
    """A model in some form, as seen by token ids."""

    def logp(self, ids: Sequence[int]) -> Tensor:
        """Log-probabilities of the next token after each of `ids` [T, V], float32 on the CPU."""
        ...

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """The `count` likeliest tokens that follow each prompt, one after the other."""
        ...


@dataclass(frozen=True)
class InEngine:
    """A decoder in an engine, with the adapter that answers first there."""

    engine: Engine

    @torch.inference_mode()
    def logp(self, ids: Sequence[int]) -> Tensor:
        engine = self.engine
        hidden_BTD = hidden_states(engine.decoder, [tuple(ids)], engine.device, engine.pick([engine.first]))
        return engine.decoder.head.logits(hidden_BTD[0]).float().log_softmax(-1).cpu()

    def greedy(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return [answer.ids for answer in self.engine.generate(prompts, SamplingSettings(max_tokens=count))]


@dataclass(frozen=True)
class Agreement:
    """Of one form with another, over all tokens of some prompts."""

    kl: float
    """Mean over tokens of KL(reference ‖ other) in nats."""
    top1: float
    """Share of tokens after which both hold the same token for the likeliest."""
    greedy: float
    """Share of prompts that both continue with the same 32 tokens."""
    greedy_tokens: float
    """Tokens that both continue with before they part, as a share of 32."""
    prompts: int
    tokens: int

    @property
    def same_model(self) -> bool:
        """Whether the other form may pass for the reference."""
        return self.top1 >= LEAST_TOP1 or self.kl <= MOST_KL

    @property
    def limits(self) -> dict[str, float]:
        """What decides on that."""
        return {"top1": LEAST_TOP1, "kl": MOST_KL}

    @property
    def wanted(self) -> str:
        """The limits in words."""
        return f"at least {LEAST_TOP1:.0%} top-1 or at most {MOST_KL} nats are wanted"

    def line(self) -> str:
        """The figures in one line."""
        return (
            f"KL {self.kl:.2e} nats, top-1 {self.top1:.2%}, greedy {self.greedy:.0%} of {self.prompts} prompts "
            f"({self.greedy_tokens:.0%} of tokens)"
        )


def agreement(reference: Form, other: Form, prompts: Sequence[Sequence[int]]) -> Agreement:
    """How far `other` says of the prompts what `reference` says. Raises ValueError without prompts."""
    if not prompts:
        raise ValueError("agreement needs at least one prompt")
    kl = same = tokens = whole = common = 0.0
    for ids in prompts:
        mine_TV, other_TV = (form.logp(ids).double().log_softmax(-1) for form in (reference, other))
        ratio_TV = other_TV - mine_TV
        # p (q/p - 1 - log q/p) sums to KL as p log p/q does, and rounding takes none of its terms below 0.
        kl += float((mine_TV.exp() * (ratio_TV.expm1() - ratio_TV).clamp(min=0)).sum())
        same += float((mine_TV.argmax(-1) == other_TV.argmax(-1)).sum())
        tokens += len(ids)
    for one, two in zip(reference.greedy(prompts, GREEDY), other.greedy(prompts, GREEDY), strict=True):
        shared = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        common += shared / max(len(one), 1)
        whole += one == two
    count = len(prompts)
    return Agreement(kl / tokens, same / tokens, whole / count, common / count, count, int(tokens))


def prompts_of(tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> list[list[int]]:
    """Texts as prompts; those that spell nothing are left out."""
    return [ids for ids in (tokenizer.encode(text) for text in texts) if ids]


def require_same(found: Agreement | RewardAgreement, made: str, *, source: str, do: str) -> None:
    """Raises UserError, which advises to `do` something, where what was made of `source` is another model than it."""
    if not found.same_model:
        raise UserError(f"{made} is another model than this: {found.line()}; {found.wanted}", where=source, do=do)


def write_agreement(
    folder: Path, found: Agreement | RewardAgreement, *, source: str, made: str, reader: str | None = None
) -> None:
    """Writes the score into the folder, agreement.json: what was made, of what, and how far both agree.

    `reader` is the program that read what was made, if not danlu.
    """
    with atomic_file(folder / FILE) as handle:
        score = {"source": source, "made": made, "reader": reader, **asdict(found), "limits": found.limits}
        json.dump(score, handle, indent=1)
        handle.write("\n")
