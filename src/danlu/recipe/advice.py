"""What `danlu doctor` says of settings that work and are seldom meant: each with its figure and what is usual."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from danlu.recipe.settings import Recipe, TrainingStage
from danlu.train.tune_settings import LoRA, QLoRA

FEW_EXAMPLES = 10_000
LONG_WARMUP = 0.2
USUAL_RANK = {"lora": 8, "qlora": 64}
FEW_TURNS = 4  # examples a step below which gradients are mostly noise
RATES = {"lora": (5e-5, 1e-3), "full": (1e-6, 1e-4)}
"""Learning rates of SFT between which the field's recipes lie."""


@dataclass(frozen=True)
class Advice:
    """A setting by its dotted name, and a sentence on it in both languages."""

    setting: str
    en: str
    zh: str

    def said(self, language: Literal["en", "zh"]) -> str:
        """The setting and its sentence."""
        return f"{self.setting}: {self.zh if language == 'zh' else self.en}"


def advice(recipe: Recipe, examples: dict[str, int]) -> list[Advice]:
    """What is worth a thought in the training stages; `examples` is how many each has in an epoch."""
    return [
        Advice(f"{name}.{one.setting}", one.en, one.zh)
        for name, section in recipe.training().items()
        for of in (_adapter, _loss, _pace, _numbers)
        for one in of(name, section, examples.get(name, 0))
    ]


def _adapter(name: str, section: TrainingStage, examples: int) -> Iterator[Advice]:
    tune = section.train.tune
    if not isinstance(tune, LoRA):
        return
    if tune.alpha is not None and tune.alpha != 2 * tune.rank and not tune.rslora:
        share = tune.alpha / (2 * tune.rank)
        yield Advice(
            "train.tune.alpha",
            f"alpha {tune.alpha:g} at rank {tune.rank} multiplies the adapter by {tune.alpha / tune.rank:.3g}, "
            f"{share:.3g} times what is usual (twice the rank): leave alpha out, or choose the learning rate for it.",
            f"rank {tune.rank} 配 alpha {tune.alpha:g}，适配器乘以 {tune.alpha / tune.rank:.3g}，"
            f"是通常做法（alpha 为 rank 的两倍）的 {share:.3g} 倍：去掉 alpha，或按它选学习率。",
        )
    usual = USUAL_RANK[tune.method]
    if tune.rank != usual:
        yield Advice("train.tune.rank", *_on_rank(tune.rank, usual, tune.method))
    if tune.rank > 64 and not tune.rslora:
        yield Advice(
            "train.tune.rslora",
            f"at rank {tune.rank} alpha / rank makes gradients small: rslora: true divides by the root of the rank.",
            f"rank 为 {tune.rank} 时 alpha / rank 使梯度变小：rslora: true 改为除以 rank 的平方根。",
        )
    if tune.targets != ["all-linear"]:
        named = ", ".join(tune.targets)
        yield Advice(
            "train.tune.targets",
            f"an adapter on {named} alone; on every projection (all-linear) it comes nearer to full training, at "
            "any rank (arXiv 2305.14314, figure 2).",
            f"适配器只加在 {named} 上；加在全部投影上（all-linear）时，无论 rank 多少都更接近全量训练"
            "（arXiv 2305.14314 图 2）。",
        )
    seen_again = section.train.epochs > 2 and 0 < examples < FEW_EXAMPLES
    if tune.dropout == 0 and seen_again:
        yield Advice(
            "train.tune.dropout",
            f"{examples:,} examples, each seen {section.train.epochs:g} times, without dropout: 0.05 to 0.1 keeps an "
            "adapter from learning them by heart; watch the held-out loss.",
            f"{examples:,} 条样本各见 {section.train.epochs:g} 次而没有 dropout："
            "0.05 到 0.1 可防止死记，请看留出集损失。",
        )
    if tune.dropout > 0 and section.train.epochs <= 1 and examples >= FEW_EXAMPLES:
        yield Advice(
            "train.tune.dropout",
            f"{examples:,} examples, each seen once: there is nothing to learn by heart, and dropout {tune.dropout:g} "
            "makes gradients noisier for no gain; it takes little time on a GPU, more on a CPU. 0 is usual.",
            f"{examples:,} 条样本各见一次，无从死记，dropout {tune.dropout:g} 只让梯度更吵而无益；"
            "在 GPU 上费时很少，在 CPU 上多些。通常为 0。",
        )


def _on_rank(rank: int, usual: int, method: str) -> tuple[str, str]:
    """What the field found on ranks, in both languages."""
    how = {"lora": "LoRA", "qlora": "QLoRA"}[method]
    found_en = "with every projection adapted, ranks 8 to 256 scored alike on instructions (arXiv 2305.14314, figure 4)"
    found_zh = "指令微调、适配全部投影时，rank 8 到 256 得分相近（arXiv 2305.14314 图 4）"
    if rank < 8:
        found_en = "ranks 1 to 64 scored alike on two tasks of a 175B model (arXiv 2106.09685, table 6)"
        found_zh = "175B 模型的两个任务上，rank 1 到 64 得分相近（arXiv 2106.09685 表 6）"
    return (
        f"rank {rank} where {usual} is usual for {how}: {rank / usual:.3g} times the parameters and moments. "
        f"Measured: {found_en}; of much new text higher ranks learn more (arXiv 2405.09673).",
        f"rank 为 {rank}，{how} 通常用 {usual}：适配器的参数和动量是其 {rank / usual:.3g} 倍。已有测量："
        f"{found_zh}；新文本很多时，rank 越高学到的越多（arXiv 2405.09673）。",
    )


def _loss(name: str, section: TrainingStage, examples: int) -> Iterator[Advice]:
    if "user" in section.data.loss_on:
        yield Advice(
            "data.loss_on",
            "questions are trained too: the model learns to ask them, and the loss is no longer that of answers. "
            "[assistant] is usual.",
            "问题也在损失里：模型会学着提问，损失也不再是回答的损失。通常只用 [assistant]。",
        )
    if name == "sft" and section.data.turns != "all":
        which = "第一" if section.data.turns == "first" else "最后"
        yield Advice(
            "data.turns",
            f"only the {section.data.turns} answer of a conversation is trained; `all` learns from each in one pass.",
            f"每段对话只训练{which}个回答；`all` 在同样的计算里训练每一个。",
        )
    if section.data.held_out == 0:
        yield Advice(
            "data.held_out",
            "nothing is held out, so nothing shows when the model begins to learn by heart: 0.01 is enough for most.",
            "没有留出数据，就看不出何时开始死记：多数情况 0.01 就够。",
        )


def _pace(name: str, section: TrainingStage, examples: int) -> Iterator[Advice]:
    train = section.train
    steps = min(train.steps or 10**12, ceil(examples * train.epochs / train.batch))
    if examples and train.warmup >= max(1, LONG_WARMUP * steps):
        yield Advice(
            "train.warmup",
            f"{train.warmup:g} steps of warmup in a run of {steps:,}: the rate "
            + ("never reaches its height" if train.warmup >= steps else f"rises for {train.warmup / steps:.0%} of it")
            + ". 0.03 to 0.1 of the run is usual.",
            f"全程 {steps:,} 步中预热 {train.warmup:g} 步："
            + ("学习率到不了最高值" if train.warmup >= steps else f"占 {train.warmup / steps:.0%}")
            + "。通常为全程的 0.03 到 0.1。",
        )
    if 0 < examples < train.batch:
        yield Advice(
            "train.batch",
            f"{train.batch:,} examples a step, and an epoch has {examples:,}: each step goes over all of the data. "
            "Lower it for more steps.",
            f"每步 {train.batch:,} 条样本，而一轮只有 {examples:,} 条：每一步都要走完全部数据。调小它，步数才会多。",
        )
    if train.batch < FEW_TURNS:
        yield Advice(
            "train.batch",
            f"{train.batch} example(s) a step: gradients are mostly noise. Accumulating costs no memory; 16 to 128 is "
            "usual.",
            f"每步 {train.batch} 条样本，梯度大半是噪声。累积不占显存；通常 16 到 128。",
        )
    if train.save.every and train.save.keep_last == 1 and not train.save.keep_best:
        yield Advice(
            "train.save.keep_last",
            "one checkpoint stays: where the end is not the best there is no way back. Set keep_last: 2 or keep_best: "
            "1.",
            "只留一个检查点：若末尾并非最好，就回不去了。设 keep_last: 2 或 keep_best: 1。",
        )


def _numbers(name: str, section: TrainingStage, examples: int) -> Iterator[Advice]:
    train, rate = section.train, section.train.learning_rate
    if train.precision == "fp16":
        yield Advice(
            "train.precision",
            "fp16 overflows where bf16 does not, and needs a loss scale: bf16 on any GPU since Ampere.",
            "fp16 会在 bf16 不溢出之处溢出，还要损失缩放：Ampere 及之后的 GPU 用 bf16。",
        )
    low, high = RATES["lora" if isinstance(train.tune, LoRA) else "full"]
    if name == "sft" and not low <= rate <= high and train.optimizer == "adamw":
        how = "QLoRA" if isinstance(train.tune, QLoRA) else "LoRA" if isinstance(train.tune, LoRA) else "full"
        yield Advice(
            "train.learning_rate",
            f"{rate:g} is outside {low:g} to {high:g}, where recipes of {how} fine-tuning of large models lie.",
            f"{rate:g} 在 {low:g} 到 {high:g} 之外，大模型微调（{how}）的配方都在其内。",
        )
