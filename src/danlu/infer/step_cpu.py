"""A decoding step on a CPU in one call of step_cpu.cpp, compiled when it is first needed: of a small model, asking for
operations one by one costs more than what they compute.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn

from danlu.infer.cache import Cache
from danlu.infer.graphs import blocks_of, projections
from danlu.infer.native import library
from danlu.model.decoder import Block, Decoder
from danlu.model.integers import Int8, Int8Embedding
from danlu.model.projection import Projection, Quantised
from danlu.model.rope import Rope

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
WEIGHTS_A_THREAD = 400_000  # times rows: below it, waiting for another thread costs more than it does


class Matrix(Structure):
    _fields_ = (
        ("values", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("out", c_int64),
        ("width", c_int64),
        ("kind", c_int32),
    )


class Layer(Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "o", "gate_up", "down")),
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
    _fields_ = tuple((name, c_void_p) for name in ("x", "normed", "wide", "attended", "inner", "scores"))


class StepOnCPU:
    """The logits of the next token of rows 0 … B-1 of the cache, for decoders that `fit`.

    The weights are read where they are, in float32, bf16 or 8 bits; all between them is float32. `renew` is to be
    called when they may have been put elsewhere.
    """

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder, self._cache = decoder, cache
        self._moves = -1
        self._weights = sum(part.numel() for part in decoder.parameters())

    @staticmethod
    def fit(decoder: Decoder) -> bool:
        """Whether it computes this one: on a CPU, rotary positions, no adapters, a compiler at hand."""
        held = [part for block in blocks_of(decoder) for part in projections(block)]
        return (
            isinstance(decoder.places, Rope)
            and all(part.adapters is None and not part.float8 for part in held)
            and all(_readable(matrix) for matrix in (*map(_held, held), *_ends(decoder)))
            and library() is not None
        )

    def renew(self) -> None:
        """The weights may lie elsewhere than at the last call."""
        self._moves = -1

    def logits(self, tokens: list[int], places: list[int]) -> Tensor:
        """float32 [B, V]; `tokens` are the newest of each row, at positions `places`."""
        if self._moves != self._cache.moves:
            self._describe()
        rows = len(tokens)
        asked = torch.tensor([tokens, places])
        logits_BV = torch.empty(rows, self._model.head.out)
        threads = max(1, min(torch.get_num_threads(), self._weights * rows // WEIGHTS_A_THREAD))
        step = library()
        assert step is not None
        step.danlu_step(
            byref(self._model),
            byref(self._work),
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
        self._moves = cache.moves
        blocks = blocks_of(decoder)
        layers = (Layer * len(blocks))(*map(self._layer, blocks, cache.layers))
        embed, head = map(self._matrix, _ends(decoder))
        cos, sin = decoder.places(torch.arange(cache.length)[None], torch.float32)
        own, width, threads = shape.heads * shape.head_size, shape.hidden_size, torch.get_num_threads()
        queries = shape.heads // shape.kv_heads
        wide = max(blocks[0].qkv.out_features, 2 * shape.mlp_size)
        self._model = Model(
            embed, head, layers, *map(self._address, (decoder.norm.weight, cos, sin)),
            len(blocks), shape.kv_heads, queries, shape.head_size, cache.length, cache.window or 0,
            decoder.norm.eps, blocks[0].q_norm.eps if blocks[0].q_norm is not None else 0.0, shape.activation == "gelu",
        )  # fmt: skip
        sizes = [cache.rows * size for size in (width, width, wide, own, shape.mlp_size)]
        self._work = Work(*(self._address(torch.empty(size)) for size in (*sizes, threads * queries * cache.length)))

    def _layer(self, block: Block, cached: tuple[Tensor, Tensor]) -> Layer:
        norms = (block.attention_norm, block.mlp_norm, block.q_norm, block.k_norm)
        return Layer(
            *(self._matrix(_held(part), part.bias) for part in projections(block)),
            *(None if norm is None else self._address(norm.weight) for norm in norms),
            *(held.data_ptr() for held in cached),
        )

    def _matrix(self, held: Tensor | Quantised, bias: Tensor | None = None) -> Matrix:
        values, scales = (held.values, held.scales) if isinstance(held, Int8) else (held, None)
        assert isinstance(values, Tensor)
        self._kept.append(values)
        further = (None if part is None else self._address(part) for part in (scales, bias))
        return Matrix(values.data_ptr(), *further, *values.shape, KINDS[values.dtype])

    def _address(self, tensor: Tensor) -> int:
        """Of its values as float32 that lie together."""
        tensor = tensor.detach().float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _held(part: Projection) -> Tensor | Quantised:
    return part.weight if part.quantised is None else part.quantised


def _ends(decoder: Decoder) -> tuple[Tensor | Quantised, Tensor | Quantised]:
    """What embedding and head hold."""
    embed: nn.Module = decoder.embed
    rows = embed.rows if isinstance(embed, Int8Embedding) else decoder.embed.weight
    return rows, decoder.head.weight if decoder.head.quantised is None else decoder.head.quantised


def _readable(held: Tensor | Quantised) -> bool:
    if isinstance(held, Quantised):
        return isinstance(held, Int8) and held.values.device.type == "cpu"
    plain = type(held.data) is Tensor and held.device.type == "cpu"  # no shard
    return plain and held.dtype in KINDS and held.is_contiguous()
