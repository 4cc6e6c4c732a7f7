"""A decoding step by few operations gives what the decoder gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from danlu.infer.cache import Cache
from danlu.infer.decode_cpu import fits, next_hidden
from danlu.infer.engine import Engine
from danlu.model.adapt import AdapterShape, attach
from danlu.model.integers import to_int8
from danlu.model.projection import Projection

from .drawn import drawn

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "heads": 4},
    "qwen2": {"family": "qwen2", "heads": 4, "kv_heads": 2, "qkv_bias": True},
    "qwen3": {"family": "qwen3", "heads": 4, "kv_heads": 1, "head_dim": 12, "qk_norm": True},
}


@pytest.mark.parametrize("places", [[0], [9], [7, 7, 7], [3, 11, 0, 5]])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16", "int8"])
def test_it_gives_what_the_decoder_gives(name: str, kind: str, window: int | None, places: list[int]) -> None:
    decoder = drawn(SHAPES[name])
    if kind == "int8":
        for part in decoder.modules():
            if isinstance(part, Projection):
                part.quantise(to_int8(part.weight))
    else:
        decoder.to(getattr(torch, kind))
    assert fits(decoder)
    tokens_B, positions_B = torch.arange(len(places)), torch.tensor(places)
    found = []
    for lean in (True, False):
        torch.manual_seed(1)
        cache = Cache(4, 64, window)
        cache.reserve(4, 16)
        attend = cache.prefill(torch.arange(4), torch.arange(12).expand(4, -1), 0)
        decoder(torch.randint(90, (4, 12)), torch.arange(12).expand(4, -1), attend)
        attend = cache.decode(positions_B[:, None], places)
        if lean:
            hidden_BD = next_hidden(decoder, tokens_B, positions_B, attend)
        else:
            hidden_BD = decoder(tokens_B[:, None], positions_B[:, None], attend)[:, 0]
        found.append([hidden_BD, *(held for layer in cache.layers for held in layer)])
    tolerance = {"float64": 1e-11, "float32": 1e-4, "bfloat16": 0.05, "int8": 0.05}[kind]
    for ours, plain in zip(*found, strict=True):
        assert (ours.dtype, ours.shape) == (plain.dtype, plain.shape)
        assert float((ours - plain).norm() / plain.norm()) < tolerance


def test_other_positions_and_adapters_take_the_usual_way() -> None:
    assert not fits(drawn({"family": "baichuan", "heads": 4, "positions": "alibi"}))
    adapted = drawn(SHAPES["llama"])
    attach(adapted, AdapterShape(rank=2), 0)
    assert not fits(adapted)
    assert Engine(adapted).generate([[1, 2, 3]])[0].ids
