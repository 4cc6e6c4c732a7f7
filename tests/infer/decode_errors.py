"""Prints, for each case, how far the decoding kernels lie from the decoder's own way over the cache, and how many of
the likeliest tokens are others than plain Python finds.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch
from drawn import with_adapters

from danlu.infer.cache import Cache
from danlu.infer.graphs import blocks_of, next_tokens, projections, turns_of
from danlu.infer.tokens_cuda import take_likeliest
from danlu.model.adapt import AdapterShape
from danlu.model.decoder import Decoder
from danlu.model.integers import Int8Embedding, to_int8
from danlu.model.integers_cuda import pack
from danlu.model.parts import initialise
from danlu.model.projection import Projection, Quantised
from danlu.model.settings import ModelSettings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES: dict[str, tuple[dict[str, object], list[int], int | None]] = {
    "grouped heads": ({"heads": 4, "kv_heads": 2}, [5, 190], None),
    "norms of queries and keys": ({"heads": 8, "kv_heads": 2, "family": "qwen3"}, [0, 64, 200], None),
    "a window": ({"heads": 6, "kv_heads": 2, "family": "llama"}, [63, 64, 250], 20),
    "one row": ({"heads": 4, "kv_heads": 2}, [130], None),
    "one row, the first token": ({"heads": 4, "kv_heads": 2}, [0], None),
    "one row, a window of splits": ({"heads": 2, "kv_heads": 2}, [999], 300),
    "one row, more heads than a tile": ({"heads": 40, "kv_heads": 2, "family": "llama"}, [257], None),
    "one row, an odd number of heads": ({"heads": 7, "kv_heads": 1}, [64], None),
    "one row, wide heads": ({"heads": 4, "kv_heads": 1, "hidden_size": 512}, [640], None),
    "one head for all": ({"heads": 7, "kv_heads": 1}, [63, 257], None),
    "tiles and splits": ({"heads": 8, "kv_heads": 1, "family": "llama"}, [0, 62, 254, 255, 256, 257, 999], None),
    "a window of splits": ({"heads": 2, "kv_heads": 2}, [299, 300, 301, 999], 300),
    "many splits": ({"heads": 2, "kv_heads": 1}, [2500], None),
    "splits of tiles": ({"heads": 6, "kv_heads": 6, "family": "qwen3"}, [700, 3, 256, 0, 513, 576] * 2, None),
    "wide heads": ({"heads": 4, "kv_heads": 1, "hidden_size": 512}, [127, 128, 300], None),
    "one split": ({"heads": 4, "kv_heads": 4, "family": "llama"}, list(range(34)), None),
    "one row, 4 bits": ({"heads": 4, "kv_heads": 2, "family": "llama"}, [130], None),
    "one row, a gate of 8 bits": ({"heads": 4, "kv_heads": 2, "family": "llama"}, [130], None),
    "three rows, 4 bits": ({"heads": 4, "kv_heads": 2}, [0, 64, 200], None),
    "one row, adapters": ({"heads": 4, "kv_heads": 2}, [130], None),
    "rows with adapters and without": ({"heads": 8, "kv_heads": 2}, [5, 190, 64, 0], None),
    "rows with adapters, 4 bits": ({"heads": 4, "kv_heads": 2, "family": "llama"}, [0, 64, 200], None),
    "rows with adapters, one of them DoRA": ({"heads": 8, "kv_heads": 2, "family": "qwen3"}, [5, 190, 64, 0], None),
}
FEW = ("q_proj", "down_proj")
PICKS = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
"""Which of two adapters each row takes: the first, the second, none, the first."""
LIKELIEST = [
    (1, 151_936, torch.bfloat16),
    (1, 3, torch.float32),
    (2, 1_025, torch.float16),
    (5, 32_003, torch.bfloat16),
    (40, 30_001, torch.bfloat16),
    (256, 300, torch.bfloat16),
]
"""Rows, vocabulary and format."""


@torch.no_grad()
def errors(
    shape: dict[str, object], places: list[int], window: int | None, bits: int, adapted: bool, gains: bool
) -> list[float]:
    """Relative distances of the logits, and of all keys and values."""
    settings = {"vocab_size": 50, "hidden_size": 32 * int(str(shape["heads"])), "layers": 2, "mlp_size": 64, **shape}
    decoder = Decoder.empty(ModelSettings.model_validate(settings), device=DEVICE)
    initialise(decoder, 0)
    torch.manual_seed(0)
    for parameter in decoder.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    if adapted:
        with_adapters(decoder, AdapterShape(rank=4), AdapterShape(rank=19, targets=FEW, magnitudes=gains))
    pick = torch.tensor(PICKS[: len(places)], device=DEVICE) if adapted else None
    of_bits = {4: projections, 8: lambda block: (block.gate_up,), 32: lambda block: ()}[bits]
    slots = [slot for block in blocks_of(decoder) for slot in of_bits(block)]
    small = [in_its_place(slot, bits) for slot in slots]
    if bits == 4:
        decoder.embed = Int8Embedding(to_int8(decoder.embed.weight), decoder.norm.weight.dtype)  # type: ignore[assignment]
    caches = []
    for _ in range(2):
        cache = Cache(len(places), len(places) * 4096, window)
        cache.reserve(len(places), max(places) + 1)
        caches.append(cache)
    for _ in range(2):
        heads = decoder.settings.kv_heads, decoder.settings.head_size
        held = torch.randn(2, caches[0].rows, caches[0].length, *heads, device=DEVICE)
        for cache in caches:
            cache.layers.append((held[0].clone(), held[1].clone()))
    tokens, positions = torch.arange(len(places), device=DEVICE), torch.tensor(places, device=DEVICE)
    attend = caches[0].decode(positions[:, None], places)
    plain = decoder.head.logits(decoder(tokens[:, None], positions[:, None], attend, pick)[:, 0])
    for slot, made in zip(slots, small, strict=True):
        slot.quantise(made)
    inputs = torch.stack([tokens, positions])
    logits, _ = next_tokens(decoder, caches[1], inputs, turns_of(decoder, caches[1]), pick)
    pairs = [(logits, plain), (inputs, torch.stack([logits.argmax(-1), positions + 1]))]
    for usual, ours in zip(caches[0].layers, caches[1].layers, strict=True):
        pairs += list(zip(ours, usual, strict=True))
    return [float((ours - usual).double().norm() / usual.double().norm()) for ours, usual in pairs]


def in_its_place(slot: Projection, bits: int) -> Quantised:
    """A weight in 4 or 8 bits; the projection's own becomes what it stands for."""
    groups = slot.out_features, slot.in_features // 32
    scales, middles = (torch.randn(groups, device=DEVICE).mul(size).bfloat16() for size in (0.02, 0.05))
    levels = torch.randint(16, (*groups, 32), device=DEVICE)
    made = pack(levels, scales, middles) if bits == 4 else to_int8(slot.weight)
    slot.weight.data = made.dequantised(slot.weight.dtype)
    return made


def others(rows: int, vocabulary: int, dtype: torch.dtype) -> int:
    """How many tokens, notes of NaN and positions are not what plain Python makes of logits with many ties."""
    torch.manual_seed(rows)
    logits = torch.randint(-9, 10, (rows, vocabulary)).clamp(-9, 8).to(dtype)
    logits[0, vocabulary - 1] = 9  # the last of all, alone
    logits[1:2, torch.randint(vocabulary, ())] = float("nan")
    for row, value in enumerate((-float("inf"), float("inf"), float("nan")), 2):
        logits[row : row + 1] = value
    held = logits.tolist()
    missing = [any(value != value for value in row) for row in held]
    first = [row.index(max(row)) for row in held]
    inputs = torch.stack([torch.full((rows,), -1), torch.arange(rows) % 8]).to(DEVICE)
    tickets = torch.zeros(rows, 3, dtype=torch.int32, device=DEVICE)
    tokens, noted = take_likeliest(logits.to(DEVICE), inputs, tickets, length=8).tolist()
    wrong = sum(a != b for a, b, odd in zip(tokens, first, missing, strict=True) if not odd)
    wrong += sum(a != b for a, b in zip(noted, missing, strict=True)) + int(tickets.count_nonzero())
    wrong += sum(not 0 <= token < vocabulary for token in tokens)
    following = [min(row % 8 + 1, 7) for row in range(rows)]
    return wrong + sum(a != b for a, b in zip(inputs.flatten().tolist(), tokens + following, strict=True))


if __name__ == "__main__":
    kernels = {
        name: errors(
            *case, 4 if "4 bits" in name else 8 if "8 bits" in name else 32, "adapters" in name, "DoRA" in name
        )
        for name, case in CASES.items()
    }
    print(json.dumps({"kernels": kernels, "likeliest": [others(*case) for case in LIKELIEST]}))
