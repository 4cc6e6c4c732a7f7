"""What a run's own figures say is worth turning next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from danlu.model.attention import CUDNN_SIZE, cudnn_suits
from danlu.model.settings import ModelSettings
from danlu.train.ceiling import ceiling_flops
from danlu.train.meter import Speed
from danlu.train.parallel import World
from danlu.train.settings import TrainSettings

WAITING, SAVING, EXCHANGING, UPDATING = 0.03, 0.05, 0.1, 0.15
"""Shares of a step above which its part is worth a change."""
PADDING = 0.1
"""Share of computed tokens, likewise."""
EMPTY = 0.5
"""Share of a GPU's memory that is free at the peak, likewise."""
FASTER = 1.5
"""How much faster a product in bf16 must be to be worth a change of format."""


@dataclass(frozen=True)
class Next:
    """A setting by its dotted name, and why, in both languages."""

    setting: str
    en: str
    zh: str


def next_setting(speed: Speed, settings: TrainSettings, shape: ModelSettings, world: World) -> Next | None:
    """The setting that promises most, the surest first; None where nothing stands out."""
    return next(_found(speed, settings, shape, world), None)


def _found(speed: Speed, settings: TrainSettings, shape: ModelSettings, world: World) -> Iterator[Next]:
    share = speed.shares
    if settings.precision == "float32":
        gain = ceiling_flops(world.device, torch.bfloat16) / ceiling_flops(world.device, torch.float32)
        if gain >= FASTER:
            yield Next(
                "train.precision=bf16",
                f"products in bf16 are {gain:.1f} times as fast here as in float32",
                f"这里 bf16 的矩阵乘比 float32 快 {gain:.1f} 倍",
            )
    if world.device.type == "cuda" and settings.compile is False:
        yield Next("train.compile=true", "blocks are not compiled", "各层没有编译")
    if share["saving"] > SAVING:
        yield Next(
            "train.save.every, train.evaluate_every",
            f"checkpoints and held-out losses take {share['saving']:.0%} of the time: make them rarer",
            f"存检查点和算留出集损失占 {share['saving']:.0%} 的时间：间隔调大",
        )
    if share["data"] > WAITING:
        yield Next(
            "token_sets",
            f"steps wait for data {share['data']:.0%} of the time: keep the token sets on a local disk, and a CPU core "
            "free to read them",
            f"各步有 {share['data']:.0%} 的时间在等数据：把词元集放在本地磁盘上，并留一个 CPU 核来读",
        )
    if share["communication"] > EXCHANGING:
        less = settings.sharding in ("gradients", "full")
        yield Next(
            "train.sharding=optimizer" if less else "train.batch",
            f"processes exchange for {share['communication']:.0%} of the time: "
            + ("this level does it once a step, where it fits" if less else "a larger batch exchanges less often"),
            f"进程间通信占 {share['communication']:.0%} 的时间："
            + ("显存够时此级每步只交换一次" if less else "批量越大，交换越少"),
        )
    if speed.useful_share < 1 - PADDING:
        yield Next(
            "data.pack=best_fit, data.length",
            f"{1 - speed.useful_share:.0%} of the computed tokens are padding: pack rows, or choose another length",
            f"计算的词元里 {1 - speed.useful_share:.0%} 是填充：打包成行，或换一个长度",
        )
    yield from _memory(speed, settings, world)
    of_its_size = shape.head_size == CUDNN_SIZE and shape.positions == "rope" and settings.precision != "float32"
    if of_its_size and cudnn_suits(world.device, shape.sliding_window) and find_spec("cudnn") is None:
        yield Next(
            "pip install 'danlu[cudnn]'",
            f"attention at heads of {CUDNN_SIZE} takes a fifth to a quarter less time with cuDNN on this GPU",
            f"这种 GPU 上头大小 {CUDNN_SIZE} 的注意力用 cuDNN 可省五分之一到四分之一的时间",
        )
    if share["optimizer"] > UPDATING:
        yield Next(
            "train.batch",
            f"clipping and the update take {share['optimizer']:.0%} of the time: a larger batch updates less often",
            f"裁剪和更新占 {share['optimizer']:.0%} 的时间：批量越大，更新越少",
        )


def _memory(speed: Speed, settings: TrainSettings, world: World) -> Iterator[Next]:
    if speed.peak_memory is None:
        return
    free = 1 - speed.peak_memory / torch.cuda.mem_get_info(world.device)[1]
    if free > EMPTY and settings.recompute:
        yield Next(
            "train.recompute=false",
            f"{free:.0%} of the GPU's memory was never used: activations may fit as they are",
            f"显存有 {free:.0%} 从未用到：激活值也许放得下",
        )
    if free > EMPTY and settings.rows:
        yield Next(
            "train.rows=null",
            f"{free:.0%} of the GPU's memory was never used: larger micro-batches are chosen from what is free",
            f"显存有 {free:.0%} 从未用到：留空则按空闲显存选更大的微批",
        )
