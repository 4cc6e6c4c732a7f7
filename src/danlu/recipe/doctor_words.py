"""What `danlu doctor` says, in both languages."""

from __future__ import annotations

from typing import Literal

WORDS: dict[Literal["en", "zh"], dict[str, str]] = {
    "en": {
        "title": "{stage}: what a step takes on {place}",
        "cpu": "a CPU",
        "gpu": "a GPU of {size:.0f} GiB",
        "one of": "{place}, one of {processes}",
        "as set": "{setting} (as set)",
        "weights": "weights",
        "adapters": "adapters",
        "masters": "float32 copies",
        "gradients": "gradients",
        "moments": "moments",
        "activations": "activations",
        "loss": "loss",
        "in all": "in all",
        "micro-batch": "micro-batch",
        "rows": "{rows} × {length:,} tokens",
        "too many": "{rows} does not fit",
        "most": "{rows}, the most",
        "pick": "→ {stage}: {way}; micro-batches of up to {size}{logits}; a step keeps its {batch:,} examples",
        "keep": "recompute: {value}, as set",
        "set": "set {stage}.train.recompute={value}, the better here",
        "at once": ", the logits of {tokens:,} at a time",
        "none fits": "✗ {stage}: not even the smallest micro-batch fits: set {stage}.train.tune to an adapter, "
        "{stage}.train.optimizer_states=8bit or {stage}.data.length lower, or share the run out "
        "({stage}.train.sharding)",
        "paged": "{stage}: the moments, 8 bytes for a trained weight, are paged: they give way to the host",
        "no training": "nothing is missing; this recipe trains nothing, so there is nothing more to check",
        "checks": "{stage}: 2 layers, your texts",
        "check": "what must change nothing",
        "apart": "apart by",
        "limit": "limit",
        "failed": "FAILED",
        "not tried": "{stage}: the heaviest batch was not tried: it needs about {needed:.0f} GiB, and {free:.0f} GiB "
        "are free here. Run doctor on the machine that will train, or set {stage}.train.rows lower",
        "weights too large": "its weights do not fit",
        "does not fit": "✗ {stage}: {told}: set {stage}.train.recompute=true, {stage}.data.length lower, or another "
        "{stage}.train.tune",
        "heaviest": "{stage}, heaviest batch ({rows} × {length} tokens, all in the loss): {peak} at the peak"
        "{expected}, {speed:,.0f} tokens/s; at that rate the stage takes {time}",
        "expected": " ({size} expected)",
    },
    "zh": {
        "title": "{stage}：{place}上一步所占",
        "cpu": "CPU ",
        "gpu": "{size:.0f} GiB 的 GPU ",
        "one of": "{processes} 个进程之一的{place}",
        "as set": "{setting}（当前设置）",
        "weights": "权重",
        "adapters": "适配器",
        "masters": "float32 副本",
        "gradients": "梯度",
        "moments": "动量",
        "activations": "激活",
        "loss": "损失",
        "in all": "合计",
        "micro-batch": "微批",
        "rows": "{rows} × {length:,} 个词元",
        "too many": "{rows}，放不下",
        "most": "{rows}，最多",
        "pick": "→ {stage}：{way}；微批最多 {size}{logits}；每步仍是 {batch:,} 个样本",
        "keep": "recompute: {value}，照现在的设置",
        "set": "设 {stage}.train.recompute={value}，在此更合适",
        "at once": "，每次算 {tokens:,} 个的 logits",
        "none fits": "✗ {stage}：最小的微批也放不下：把 {stage}.train.tune 设为适配器，设 "
        "{stage}.train.optimizer_states=8bit，调低 {stage}.data.length，或用多块 GPU 分担（{stage}.train.sharding）",
        "paged": "{stage}：动量（每个被训练的权重 8 字节）是分页的，显存不够时移到主机内存",
        "no training": "什么都不缺；这份配方不训练，没有更多要检查的",
        "checks": "{stage}：两层，你的文本",
        "check": "不该有影响的",
        "apart": "相差",
        "limit": "上限",
        "failed": "未通过",
        "not tried": "{stage}：没有试最重的一批：约需 {needed:.0f} GiB，而这里空闲 {free:.0f} GiB。请在将要训练的机器上"
        "运行 doctor，或调低 {stage}.train.rows",
        "weights too large": "权重放不下",
        "does not fit": "✗ {stage}：{told}：设 {stage}.train.recompute=true，调低 {stage}.data.length，或换一种 "
        "{stage}.train.tune",
        "heaviest": "{stage}，最重的一批（{rows} × {length} 个词元，全部计入损失）：峰值 {peak}{expected}，"
        "每秒 {speed:,.0f} 个词元；照此速度，这一阶段需要 {time}",
        "expected": "（预计 {size}）",
    },
}
CHECKS_ZH = {
    "fused head, all examples at once": "融合的输出头，全部样本一次算",
    "one example at a time, accumulated": "逐个样本累积",
    "packed end to end": "首尾相接打包",
    "activations recomputed": "重算激活",
    "two processes, sharded": "两个进程，分片",
    "saved and resumed": "保存后恢复",
}
"""Of what `run_invariances` compares; the number format stands behind it."""


def check_name(name: str, language: Literal["en", "zh"]) -> str:
    """A comparison by its name in `run_invariances`."""
    way, _, number_format = name.rpartition(", ")
    return f"{CHECKS_ZH[way]}，{number_format}" if language == "zh" else name
