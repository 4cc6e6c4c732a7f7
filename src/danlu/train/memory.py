"""What a step takes on one device, part by part, and how many rows a micro-batch may have. Never changes a result.

Counted from a decoder without values that was made ready as a run makes its own: what each block keeps for its backward
pass is what its kernels and products say they need, which the compiler keeps too (it makes norms, rotations and dropout
again). Peaks on an H200 came within 1% (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import nn

from danlu.ledger.errors import UserError
from danlu.model.adapt import slots
from danlu.model.adapters import LoRA as Adapter
from danlu.model.alibi import EXTRA
from danlu.model.attention import MASK_BYTES
from danlu.model.decoder import Decoder
from danlu.model.head import KEPT_CHUNKS, RECOMPUTED_CHUNKS, chunk_bytes, chunk_bytes_of
from danlu.model.nf4 import BITS as NF4_BITS
from danlu.model.pour import free_bytes
from danlu.model.projection import Projection
from danlu.model.settings import ModelSettings, block_parameters, parameters
from danlu.tokens.packing import micro_batch_cost
from danlu.train.float8 import use_float8
from danlu.train.parallel import World
from danlu.train.precision import DTYPES
from danlu.train.preference_settings import PreferenceTrainSettings
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA, QLoRA, trained_parameters
from danlu.train.tuning import freeze

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream

CPU_TOKENS = 4096  # of a micro-batch on a CPU: more makes no product faster
LAUNCHING = 5e-4 * 4e14
"""What a GPU computes, in FLOP, while the host asks for the kernels of one block, forward and backward: a micro-batch
takes no less, however few its tokens."""
RECOMPUTING = 1.25  # times a step's time, where activations are computed again
USABLE = 0.9  # of a GPU's memory; the rest is for fragments and communication
DRIVER = 3 << 28  # bytes that a GPU's driver and libraries take before the first tensor
COPIED = 0.8  # of the memory that is free then, a checkpoint's copies may take
MOMENTS = {"float32": 8.0, "8bit": 2 + 8 / 256, "paged": 0.0}
"""Bytes of AdamW's moments for a parameter, of those that cannot move to the host."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a step, by what they are for."""

    weights: int
    """What is computed with: a frozen base, or the rounded copies of what is trained."""
    adapters: int
    masters: int
    """The float32 weights that the optimizer moves."""
    gradients: int
    moments: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class Needs:
    """What a step takes whatever its micro-batch, and what each token of a micro-batch adds."""

    fixed: Memory
    kept: int
    """Bytes a token from the forward pass of all blocks to their backward passes."""
    block: int
    """Bytes a token that one block's backward pass takes besides."""
    ends: int
    """Bytes a token from the last block to the loss and back."""
    pair: int
    """Bytes that two tokens of a row take: a mask's, where no kernel does without."""
    row: int
    """Bytes of one token's logits; 0 where there are none."""
    chunk: int
    """Bytes of logits that are held at once where they come in chunks."""
    whole: int
    """Bytes of all logits up to which they are kept, in one chunk."""
    least: int
    """Chunks at least, where they are not kept."""
    head: tuple[int, int]
    """Bytes of the head's gradient made in one chunk, and of one that is summed over several."""
    copies: int
    """Bytes that a checkpoint on the way takes where it lies beside the run until it is written."""

    def of(self, rows: int, length: int) -> Memory:
        """With micro-batches of so many rows of `length` tokens, all of them in the loss."""
        loss, tokens = 0, rows * length
        if at_once := self.at_once(tokens):
            loss = at_once * self.row + self.head[at_once < tokens]
        loss += self.ends * tokens
        beyond = max(0, self.block * tokens - loss)  # the loss is over when the first block goes back
        parts = {part.name: getattr(self.fixed, part.name) for part in fields(self.fixed)}
        activations = parts.pop("activations") + self.kept * tokens + self.pair * tokens * length + beyond
        return Memory(**{**parts, "activations": activations, "loss": loss})

    def at_once(self, tokens: int) -> int:
        """Of a micro-batch's tokens, all of them in the loss, how many have their logits held at once."""
        if not (self.row and tokens):
            return 0
        chunks = max(self.least, -(-tokens // max(16, self.chunk // self.row)))
        return tokens if tokens * self.row <= self.whole else -(-tokens // chunks)

    def rows_in(self, length: int, room: int, most: int) -> int:
        """The most rows of `length` tokens, up to `most`, that `room` bytes hold; 0 where not even one does.

        A checkpoint's copies find room beside them, so that training need not wait for the way to the host, unless
        more than a quarter of the rows would have to go.
        """
        rows, beside = (self._rows_in(length, free, most) for free in (room, room - self.copies))
        return beside if 4 * beside >= 3 * rows else rows

    def _rows_in(self, length: int, room: int, most: int) -> int:
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.of(middle, length).total <= room else (low, middle - 1)
        return low


def needs(settings: TrainSettings, shape: ModelSettings, gpu: int | None, world_size: int = 1) -> Needs:
    """Of a run on GPUs with `gpu` bytes of memory each, or, without, on a CPU."""
    blank, dtype = Decoder.empty(shape, device="meta"), DTYPES[settings.precision]
    freeze(blank, settings.tune, dtype, seed=0)
    if settings.precision == "float8":
        use_float8(blank.blocks)
    size, width = dtype.itemsize, shape.hidden_size
    trained = [block for block in blank.blocks if any(value.requires_grad for value in block.parameters())]
    each = max((_kept(block, shape, size, compiled=gpu is not None) for block in trained), default=0)
    rounds = settings.precision == "float8" and isinstance(settings.tune, LoRA)  # a frozen base where it is used
    passing = (width + 2 * shape.mlp_size) * size  # gradients inside a block on their way back
    passing += 2 * shape.mlp_size if rounds else 0
    fused = sum(_fused(slot) * size for slot in trained[0].children() if isinstance(slot, Projection)) if trained else 0
    kept, block = (
        (width * size * len(trained), each + passing) if settings.recompute else (each * len(trained), passing)
    )
    largest = max(slot.in_features * slot.out_features for _, _, slot in slots(blank))
    opened = largest * (1 if rounds else size) if rounds or isinstance(settings.tune, QLoRA) else 0
    adapting = fused * (1 if settings.recompute else len(trained)) + opened
    vocabulary = shape.vocab_size if shape.head == "tokens" else 0
    learns = vocabulary > 0 and blank.head.weight.requires_grad
    summed = size < 4 and (world_size == 1 or settings.sharding in (None, "none", "optimizer"))  # with all gradients
    chunk = chunk_bytes(torch.device("cpu")) if gpu is None else chunk_bytes_of(gpu)
    kept_logits = isinstance(settings, PreferenceTrainSettings)
    return Needs(
        _fixed(settings, blank, world_size, adapting),
        kept,
        block,
        4 * width * size,
        MASK_BYTES if gpu is None or size == 4 else 0,
        vocabulary * size,
        chunk,
        chunk * KEPT_CHUNKS if kept_logits else 0,
        RECOMPUTED_CHUNKS if settings.recompute and gpu is not None and not kept_logits else 1,
        (vocabulary * width * size, vocabulary * width * 4) if learns and not summed else (0, 0),
        _copies(settings, shape),
    )


def _copies(settings: TrainSettings, shape: ModelSettings) -> int:
    save = settings.save
    if not (save.every or save.every_epoch):
        return 0
    return int(trained_parameters(settings.tune, shape) * (4 if save.weights_only else 12) / COPIED)


def _kept(block: nn.Module, shape: ModelSettings, size: int, compiled: bool) -> int:
    """Bytes a token that a block keeps for its backward pass.

    Norms keep what goes in and one factor; attention its queries, keys, values, output and the softmax's sums; SwiGLU
    what goes in; a product whose weight is trained what goes in, in float8 where it is computed so. Values are a part
    of qkv's output. Torch's dropout keeps a mask, that of `adapted_cuda` nothing.
    """
    wider = EXTRA if shape.positions == "alibi" else 0
    queries, shared = shape.heads * (shape.head_size + wider), shape.kv_heads * (shape.head_size + wider)
    own = shape.heads * shape.head_size
    values = 2 * shape.hidden_size + 2 * queries + shared + 2 * shape.mlp_size
    values += shared if wider else own + 2 * shape.kv_heads * shape.head_size
    inputs = {"qkv": shape.hidden_size, "o": own if wider else 0, "gate_up": shape.hidden_size, "down": shape.mlp_size}
    learning = {name: slot for name, slot in block.named_children() if isinstance(slot, Projection) and _learns(slot)}
    in_float8 = {name for name, slot in learning.items() if slot.float8 and slot.adapters is None}
    dropping = {name for name, slot in learning.items() if _by_torch(slot, compiled and size == 2)}
    cheap = compiled and any(slot.adapters is not None for name, slot in learning.items() if name not in dropping)
    values += sum(inputs[name] for name in learning.keys() - in_float8 if name == "o" or not cheap)
    inputs["o"] = own  # rounded, beside what attention keeps
    again = {"qkv", "gate_up"} if compiled else set[str]()  # rounded again from what goes into the norm
    float8 = sum(inputs[name] for name in in_float8 - again)
    factors = 2 + shape.heads + (shape.heads + shape.kv_heads if shape.qk_norm else 0)
    masks = 0
    for name, slot in block.named_children():
        if not isinstance(slot, Projection) or not isinstance(slot.adapters, Adapter):
            continue
        values += sum(len(pair.down()) for pair in slot.adapters.of())
        if slot.adapters.has_magnitudes and not (compiled and name == "o"):  # of o's the second norm's is made again
            values += slot.out_features
        if name in dropping:
            masks += slot.in_features * (1 if compiled else size)
            values += own if name == "o" else 0  # attention needs its output as it was
    if not compiled:  # the norms' quotients, the gate's, and attention's output once more, put together
        values += 2 * shape.hidden_size + shape.mlp_size + queries
    return values * size + factors * 4 + masks + float8


def _by_torch(slot: Projection, in_place: bool) -> bool:
    """Whether its adapter's dropout is torch's; `in_place`: where `adapted_cuda` computes what it can."""
    if slot.adapters is None or not slot.adapters.dropout:
        return False
    return not (in_place and isinstance(slot.adapters, Adapter) and slot.adapters.plain(slot))


def _learns(slot: Projection) -> bool:
    return slot.weight.requires_grad if slot.adapters is None else True


def _fused(slot: Projection) -> int:
    """Values of an adapter's matrices as a product takes them: B in blocks, and several A's below each other."""
    if not isinstance(slot.adapters, Adapter):
        return 0
    pairs = slot.adapters.of()
    rank = sum(len(pair.down()) for pair in pairs)
    return rank * (slot.out_features + (slot.in_features if len(pairs) > 1 else 0))


def _fixed(settings: TrainSettings, blank: Decoder, world_size: int, activations: int) -> Memory:
    size, adapted = DTYPES[settings.precision].itemsize, isinstance(settings.tune, LoRA)
    counts = {(inside, learns): 0 for inside in (False, True) for learns in (False, True)}
    for name, value in blank.named_parameters():
        counts[".adapters." in name, value.requires_grad] += value.numel()
    trained = counts[True, True] + counts[False, True]
    own = counts[False, False] + (counts[False, True] if size < 4 else 0)  # in float32 masters are computed with
    quantised = block_parameters(blank.settings) if isinstance(settings.tune, QLoRA) else 0
    weights = int((own - quantised) * size + quantised * NF4_BITS / 8)
    adapters = (counts[True, False] + (counts[True, True] if size < 4 else 0)) * size
    masters, gradients = 4 * trained, 4 * trained
    by_muon = min(trained, block_parameters(blank.settings)) if settings.optimizer == "muon" else 0
    moments = int((trained - by_muon) * MOMENTS[settings.optimizer_states]) + 4 * by_muon
    if world_size > 1 and settings.sharding not in (None, "none"):
        replicated = settings.sharding == "optimizer"  # gradients, and float32 weights that are computed with
        masters = masters if replicated and size == 4 else masters // world_size
        if not replicated and size < 4:  # shards are gathered from float32, too
            masters *= 2
        gradients, moments = gradients if replicated else gradients // world_size, moments // world_size
        if settings.sharding == "full" and not adapted:  # two layers and both ends at a time, and their gradients
            layer = block_parameters(blank.settings) // len(blank.blocks)
            ends = sum(value.numel() for value in blank.parameters()) - layer * len(blank.blocks)
            weights = 2 * size * (2 * layer + ends)
    return Memory(weights, adapters, masters, gradients, moments, activations, 0)


def fitting_rows(settings: TrainSettings, shape: ModelSettings, stream: Stream, world: World) -> int:
    """Rows of a micro-batch: near as many as memory holds, and such that the last of a step leave little padding."""
    whole = -(-most_rows(settings, stream.unit) // world.size)
    if world.device.type == "cuda":
        free, gpu = torch.cuda.mem_get_info(world.device)
        # What this process holds already, such as a frozen base, is counted among the needs.
        room = int((free + torch.cuda.memory_reserved(world.device)) * USABLE)
        fitting = needs(settings, shape, gpu, world.size).rows_in(stream.length, room, whole)
        floor = launching_tokens(shape)
    else:
        fitting, floor = CPU_TOKENS // stream.length, 0
    most = world.least(max(stream.least_rows, min(fitting, whole)))
    return stream.fullest_rows(settings.batch, world.size, most, floor)


def launching_tokens(shape: ModelSettings) -> int:
    """What a GPU computes while the host asks for a micro-batch's kernels, in tokens."""
    return int(LAUNCHING * shape.layers / (6 * parameters(shape)))


def cost_per_token(settings: TrainSettings, tokens: int, floor: int) -> float:
    """The time of a token in micro-batches of so many, which cost as many as `floor` at least, in that of a token's own
    operations.
    """
    return micro_batch_cost(tokens, floor) / tokens * (RECOMPUTING if settings.recompute else 1.0)


def most_rows(settings: TrainSettings, unit: str) -> int:
    """The most rows that a step can fill."""
    return settings.batch * (2 if unit == "pair" else 1)


def room_of(gpu: int) -> int:
    """Bytes that a run may take of a GPU that is not here."""
    return int((gpu - DRIVER) * USABLE)


def require_fit(settings: TrainSettings, shape: ModelSettings, length: int, unit: str, world: World) -> None:
    """Raises UserError, before any weight is read, where not even the smallest micro-batch fits into free memory."""
    on_gpu = world.device.type == "cuda"
    gpu = torch.cuda.mem_get_info(world.device)[1] if on_gpu else None
    free = free_bytes(world.device) // (1 if on_gpu else world.size)
    rows = 2 if unit == "pair" else 1
    needed = needs(sharded(settings, shape, gpu, world.size), shape, gpu, world.size).of(rows, length)
    if needed.total <= free:
        return
    most = sorted(vars(needed).items(), key=lambda part: -part[1])[:3]
    raise UserError(
        f"a step takes at least {needed.total / 2**30:.1f} GiB ("
        + ", ".join(f"{name} {value / 2**30:.1f}" for name, value in most)
        + f", ...), and {free / 2**30:.1f} GiB are free",
        where=str(world.device),
        do="train an adapter (tune: {method: lora} or qlora), set recompute: true or a smaller data.length; "
        "`danlu doctor RECIPE --gpu GIB` says what each takes",
    )


def with_sharding(settings: TrainSettings, shape: ModelSettings, world: World) -> TrainSettings:
    """`settings` with a level of sharding where they leave it open."""
    gpu = world.least(torch.cuda.mem_get_info(world.device)[1]) if world.device.type == "cuda" else None
    return sharded(settings, shape, gpu, world.size)


def sharded(settings: TrainSettings, shape: ModelSettings, gpu: int | None, world_size: int) -> TrainSettings:
    """The same for so many GPUs with `gpu` bytes each; None: for processes on a CPU."""
    if settings.sharding is not None:
        return settings
    level = "none"
    if world_size > 1 and gpu is not None:
        cuts = "full" if settings.optimizer_states == "float32" else "optimizer"  # others' moments stay whole
        level = "none" if needs(settings, shape, gpu).of(0, 0).total <= gpu / 2 else cuts
    return settings.model_copy(update={"sharding": level})
