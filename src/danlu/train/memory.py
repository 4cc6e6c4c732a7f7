"""How many rows a micro-batch may have, from the memory that there is. Never changes a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from danlu.model.head import chunk_bytes
from danlu.model.nf4 import BITS as NF4_BITS
from danlu.model.settings import ModelSettings, block_parameters, parameters
from danlu.train.parallel import World
from danlu.train.precision import DTYPES
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import Full, LoRA, QLoRA, trained_parameters

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream

CPU_TOKENS = 4096  # of a micro-batch on a CPU: more makes no product faster
SHARE = 0.8  # of the free memory; the rest is for fragments and communication


def fitting_rows(settings: TrainSettings, shape: ModelSettings, stream: Stream, world: World) -> int:
    """Rows of a micro-batch: near as many as memory holds, and such that the last of a step leave little padding."""
    least = 2 if stream.unit == "pair" else 1
    if world.device.type == "cuda":
        free = torch.cuda.mem_get_info(world.device)[0] * SHARE - state_bytes(settings, shape, world.size)
        room = int((free - 2 * chunk_bytes(world.device)) / (activation_bytes(settings, shape) * stream.length))
    else:
        room = CPU_TOKENS // stream.length
    examples = settings.batch * (2 if stream.unit == "pair" else 1)
    most = max(least, min(room, -(-examples // world.size)))
    return stream.fullest_rows(settings.batch, world.size, most)


def with_sharding(settings: TrainSettings, shape: ModelSettings, world: World) -> TrainSettings:
    """`settings` with a level of sharding where they leave it open."""
    if settings.sharding is not None:
        return settings
    level = "none"
    if world.size > 1 and world.device.type == "cuda":
        whole = state_bytes(settings, shape, 1)
        level = "none" if whole <= torch.cuda.mem_get_info(world.device)[1] / 2 else "full"
    return settings.model_copy(update={"sharding": level})


def state_bytes(settings: TrainSettings, shape: ModelSettings, world_size: int) -> int:
    """Bytes on one device of weights, gradients and moments; on several what `sharding` gathers besides."""
    if isinstance(settings.tune, Full):
        return _trained_bytes(settings, parameters(shape), shape.layers, world_size)
    trained, compute = trained_parameters(settings.tune, shape), DTYPES[settings.precision].itemsize
    quantised = block_parameters(shape) if isinstance(settings.tune, QLoRA) else 0
    frozen = parameters(shape) - quantised - (0 if isinstance(settings.tune, LoRA) else trained)
    return int(frozen * compute + quantised * NF4_BITS / 8) + _trained_bytes(settings, trained, shape.layers, 1)


def _trained_bytes(settings: TrainSettings, count: int, layers: int, world_size: int) -> int:
    compute = DTYPES[settings.precision].itemsize
    masters = 0 if compute == 4 else compute
    adamw = 2 if settings.optimizer_states == "8bit" else 8
    moments = adamw if settings.optimizer == "adamw" else 5
    if world_size == 1 or settings.sharding == "none":
        return count * (4 + 4 + moments + 2 * masters)
    gathered = 4 * compute * (count // layers) if settings.sharding == "full" else compute * count
    whole = 4 * count if settings.sharding == "optimizer" else 0  # gradients
    return count * (4 + 4 + moments) // world_size + gathered + whole


def activation_bytes(settings: TrainSettings, shape: ModelSettings) -> int:
    """Bytes a token that the backward pass needs, as counted from the decoder's operations."""
    width, heads = shape.hidden_size, (2 * shape.heads + 2 * shape.kv_heads) * shape.head_size
    block = 6 * width + 2 * heads + 4 * shape.mlp_size
    kept = width * shape.layers + block if settings.recompute else block * shape.layers
    return DTYPES[settings.precision].itemsize * (kept + 6 * width)
