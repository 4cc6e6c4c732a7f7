"""A decoding step on a CPU in one call of step_cpu.cpp, compiled when it is first needed: of a small model, asking for
operations one by one costs more than what they compute.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from danlu.infer.cache import Cache
from danlu.infer.graphs import blocks_of, projections
from danlu.infer.native import library
from danlu.model.adapters import Several
from danlu.model.decoder import Block, Decoder
from danlu.model.integers import Int4, Int8, Int8Embedding
from danlu.model.projection import Projection, Quantised
from danlu.model.rope import Rope

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
INT4 = 3
WEIGHTS_A_THREAD = 400_000  # times rows: below it, waiting for another thread costs more than it does


class Matrix(Structure):
    _fields_ = (
        ("values", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("out", c_int64),
        ("width", c_int64),
        ("kind", c_int32),
        ("group", c_int32),
    )


class Slot(Structure):
    _fields_ = (*((name, Matrix) for name in ("weight", "a", "b")), ("owner", c_void_p))


class Layer(Structure):
    _fields_ = (
        *((name, Slot) for name in ("qkv", "o", "gate_up", "down")),
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm", "keys", "values")),
    )


class Model(Structure):
    _fields_ = (
        ("embed", Matrix),
        ("head", Matrix),
        ("layers", POINTER(Layer)),
        *((name, c_void_p) for name in ("norm", "cos", "sin")),
        *((name, c_int64) for name in ("layer_count", "kv_heads", "queries", "head_size", "length", "window")),
        *((name, c_float) for name in ("norm_eps", "head_norm_eps")),
        ("gelu", c_int32),
    )


class Work(Structure):
    _fields_ = tuple((name, c_void_p) for name in ("x", "normed", "wide", "attended", "inner", "low", "scores"))


class Picks(Structure):
    _fields_ = (("of", c_void_p), ("count", c_int64))


class StepOnCPU:
    """The logits of the next token of rows 0 … B-1 of the cache, for decoders that `fit`.

    The weights are read where they are, in float32, bf16, 8 or 4 bits; all between them is float32. `renew` is to be
    called when they may have been put elsewhere.
    """

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder, self._cache = decoder, cache
        self._moves = -1
        self._weights = 0

    @staticmethod
    def fit(decoder: Decoder) -> bool:
        """Whether it computes this one: on a CPU, rotary positions, adapters without magnitudes, a compiler at hand."""
        held = [part for block in blocks_of(decoder) for part in projections(block)]
        matrices = [matrix for part in held for matrix in (_held(part), *_added(part))]
        return (
            isinstance(decoder.places, Rope)
            and all(part.adapters is None or _added(part) for part in held)
            and not any(part.float8 for part in held)
            and all(_readable(matrix) for matrix in (*matrices, *_ends(decoder)))
            and library() is not None
        )

    def renew(self) -> None:
        """The weights may lie elsewhere than at the last call."""
        self._moves = -1

    def logits(self, tokens: list[int], places: list[int], pick_BN: Tensor | None = None) -> Tensor:
        """float32 [B, V]; `tokens` are the newest of each row, at `places`; `pick_BN` as the decoder takes it."""
        if self._moves != self._cache.moves:
            self._describe()
        rows = len(tokens)
        asked = torch.tensor([tokens, places])
        picked = None if pick_BN is None else pick_BN.float().contiguous()
        picks = Picks(None, 0) if picked is None else Picks(picked.data_ptr(), picked.shape[1])
        logits_BV = torch.empty(rows, self._model.head.out)
        threads = max(1, min(torch.get_num_threads(), self._threads, self._weights * rows // WEIGHTS_A_THREAD))
        step = library()
        assert step is not None
        step.danlu_step(
            byref(self._model),
            byref(self._work),
            byref(picks),
            c_void_p(asked.data_ptr()),
            c_void_p(asked.data_ptr() + rows * 8),
            c_int64(rows),
            c_void_p(logits_BV.data_ptr()),
            threads,
        )
        return logits_BV

    def _describe(self) -> None:
        """Writes down where all lies."""
        decoder, cache, shape = self._decoder, self._cache, self._decoder.settings
        self._kept: list[Any] = []  # what the addresses below are of
        self._moves, self._weights, self._low = cache.moves, 0, 0
        blocks = blocks_of(decoder)
        layers = (Layer * len(blocks))(*map(self._layer, blocks, cache.layers))
        embed, head = map(self._matrix, _ends(decoder))
        cos, sin = decoder.places(torch.arange(cache.length)[None], torch.float32)
        own, width, self._threads = shape.heads * shape.head_size, shape.hidden_size, torch.get_num_threads()
        queries = shape.heads // shape.kv_heads
        wide = max(blocks[0].qkv.out_features, 2 * shape.mlp_size)
        self._model = Model(
            embed, head, layers, *map(self._address, (decoder.norm.weight, cos, sin)),
            len(blocks), shape.kv_heads, queries, shape.head_size, cache.length, cache.window or 0,
            decoder.norm.eps, blocks[0].q_norm.eps if blocks[0].q_norm is not None else 0.0, shape.activation == "gelu",
        )  # fmt: skip
        sizes = [cache.rows * size for size in (width, width, wide, own, shape.mlp_size, self._low)]
        self._work = Work(
            *(self._address(torch.empty(size)) for size in (*sizes, self._threads * queries * cache.length))
        )

    def _layer(self, block: Block, cached: tuple[Tensor, Tensor]) -> Layer:
        norms = (block.attention_norm, block.mlp_norm, block.q_norm, block.k_norm)
        return Layer(
            *map(self._slot, projections(block)),
            *(None if norm is None else self._address(norm.weight) for norm in norms),
            *(held.data_ptr() for held in cached),
        )

    def _slot(self, part: Projection) -> Slot:
        weight, added = self._matrix(_held(part), part.bias), _added(part)
        if not added:
            return Slot(weight)
        assert isinstance(part.adapters, Several)
        owner = part.adapters.owner.to(torch.int32)
        self._kept.append(owner)
        self._low = max(self._low, len(owner))
        return Slot(weight, *map(self._matrix, added), owner.data_ptr())

    def _matrix(self, held: Tensor | Quantised, bias: Tensor | None = None) -> Matrix:
        scales: Tensor | None
        if isinstance(held, Int4):
            values, scales, kind, group = held.packed, held.scales, INT4, held.group
            rows, width = held.scales.shape[1], len(held.scales) * group
        else:
            values, scales = (held.values, held.scales) if isinstance(held, Int8) else (_plain(held), None)
            kind, group, (rows, width) = KINDS[values.dtype], 0, values.shape
        self._weights += rows * width
        self._kept += (values, scales)
        lie = (None if part is None else part.data_ptr() for part in (values, scales))
        return Matrix(*lie, None if bias is None else self._address(bias), rows, width, kind, group)

    def _address(self, tensor: Tensor) -> int:
        """Of its values as float32 that lie together."""
        tensor = tensor.detach().float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _held(part: Projection) -> Tensor | Quantised:
    return part.weight if part.quantised is None else part.quantised


def _added(part: Projection) -> tuple[Tensor, ...]:
    """A and B of its adapters; nothing where there are none, or such as multiply the weight's own rows."""
    several = part.adapters
    return (several.a, several.b) if isinstance(several, Several) and several.more is None else ()


def _ends(decoder: Decoder) -> tuple[Tensor | Quantised, Tensor | Quantised]:
    """What embedding and head hold."""
    embed: nn.Module = decoder.embed
    rows = embed.rows if isinstance(embed, Int8Embedding) else decoder.embed.weight
    return rows, decoder.head.weight if decoder.head.quantised is None else decoder.head.quantised


def _plain(held: Tensor | Quantised) -> Tensor:
    assert isinstance(held, Tensor)
    return held


def _readable(held: Tensor | Quantised) -> bool:
    if isinstance(held, Int4):
        return _knows_int4()
    if isinstance(held, Quantised):
        return isinstance(held, Int8) and held.values.device.type == "cpu"
    plain = type(held.data) is Tensor and held.device.type == "cpu"  # no shard
    return plain and held.dtype in KINDS and held.is_contiguous()


@cache
def _knows_int4() -> bool:
    """Whether torch keeps 4 bits here in the order that products_cpu.h reads: processors differ in it."""
    levels_NK = torch.randint(16, (96, 64), generator=torch.Generator().manual_seed(0))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels_NK.int(), 1).view(torch.uint8).flatten()
    block_KN, rest_KN = levels_NK[:64].t(), levels_NK[64:].t()
    known = block_KN[:, 32:] * 16 + block_KN[:, :32], rest_KN[:, 1::2] * 16 + rest_KN[:, ::2]
    return torch.equal(packed, torch.cat([part.flatten() for part in known]).to(torch.uint8))
