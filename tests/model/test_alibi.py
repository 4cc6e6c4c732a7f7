"""ALiBi: the biases that its formula states, in every way that attention goes here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.infer.engine import Engine
from danlu.infer.settings import SamplingSettings
from danlu.ledger.errors import UserError
from danlu.model.alibi import Alibi, lean, slopes
from danlu.model.attention import Documents
from danlu.model.decoder import Decoder
from danlu.model.settings import ALIBI_POSITIONS, ModelSettings

ROWS, LENGTH = 2, 24
LENGTHS = [[5, 11, 1, 7], [16, 8]]


def decoder(dtype: torch.dtype = torch.float64, **more: Any) -> Decoder:
    shape = {"family": "baichuan", "positions": "alibi", "vocab_size": 61, "hidden_size": 40, "layers": 2, "heads": 5}
    made = Decoder(ModelSettings.model_validate(shape | {"mlp_size": 48, "max_positions": 96} | more))
    generator = torch.Generator().manual_seed(3)
    for weight in made.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.3, generator=generator)
    return made.to(dtype)


def logits(model: Decoder, tokens_BT: Tensor, lengths: list[list[int]]) -> Tensor:
    flat = torch.tensor([length for row in lengths for length in row])
    cu = torch.cat([torch.zeros(1, dtype=torch.int32), flat.cumsum(0).int()])
    document_BT = torch.arange(len(flat)).repeat_interleave(flat).view(tokens_BT.shape)
    positions_BT = torch.cat([torch.arange(length) for length in flat]).view(tokens_BT.shape)
    attend = Documents(cu, LENGTH, document_BT, dtype=model.embed.weight.dtype)
    with torch.no_grad():
        return model.head.logits(model(tokens_BT, positions_BT, attend))


@pytest.fixture
def tokens_BT() -> Tensor:
    return torch.randint(61, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("heads", [(8, 8), (6, 2), (5, 5)])
@pytest.mark.parametrize("size", [4, 64, 128])
def test_attention_leans_by_slope_times_distance(heads: tuple[int, int], size: int) -> None:
    queries, keys = heads
    shape = ModelSettings.model_construct(heads=queries, kv_heads=keys, head_dim=size, hidden_size=queries * size)
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(2, 30, keys, queries // keys, size, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(2, 30, keys, 1, size, generator=generator, dtype=torch.float64) for _ in range(2))
    positions_BT = torch.arange(1000, 1030).expand(2, 30)
    leaning = [x.flatten(2, 3).transpose(1, 2) for x in lean(q, k, v, *Alibi(shape)(positions_BT, torch.float64))]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    found = sdpa(*leaning, is_causal=True, enable_gqa=True)
    assert found[..., size:].eq(0).all()
    distance_TT = torch.arange(30)[:, None] - torch.arange(30)
    bias = (-slopes(queries)[:, None, None] * distance_TT).masked_fill(distance_TT < 0, float("-inf"))
    plain = [x.flatten(2, 3).transpose(1, 2) for x in (q, k, v)]
    torch.testing.assert_close(found[..., :size], sdpa(*plain, bias, enable_gqa=True), rtol=1e-6, atol=1e-7)


def test_far_positions_are_as_exact_in_float32_as_a_mask_is() -> None:
    shape = ModelSettings.model_construct(heads=4, kv_heads=4, head_dim=8, hidden_size=32)
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(1, 3000, 4, 1, 8, generator=generator) for _ in range(3))
    positions_BT = torch.arange(3000)[None]
    sdpa, exact = torch.nn.functional.scaled_dot_product_attention, [x[..., 0, :].transpose(1, 2) for x in (q, k, v)]
    leaning = (x[..., 0, :].transpose(1, 2) for x in lean(q, k, v, *Alibi(shape)(positions_BT, torch.float32)))
    distance_TT = positions_BT[0][:, None] - positions_BT[0]
    bias = (-slopes(4)[:, None, None] * distance_TT).masked_fill(distance_TT < 0, float("-inf"))
    wanted = sdpa(*(x.double() for x in exact), bias)
    assert (sdpa(*leaning, is_causal=True)[..., :8] - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_slopes_and_places_exact(dtype: torch.dtype) -> None:
    shape = ModelSettings.model_construct(heads=40, kv_heads=40, head_dim=128, hidden_size=5120)
    positions = torch.tensor([[0, 1, 255, 256, 4095, ALIBI_POSITIONS - 1]])
    slopes_KGE, places = Alibi(shape)(positions, dtype)
    zero = torch.zeros(1, positions.shape[1], 40, 1, 128, dtype=dtype)
    q, k, _ = lean(zero, zero, zero, slopes_KGE, places)
    scores = (q.double() * k.double()).sum(-1)[0, :, :, 0] / (128 + 8) ** 0.5
    exact = slopes(40) * positions[0, :, None]
    # 24 bits of a float32 sum are no finer: what is asked of fp16 is its least number times the furthest place.
    torch.testing.assert_close(scores, exact, rtol=1e-6, atol=2e-3 if dtype == torch.float16 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_documents_of_a_row_are_apart(dtype: torch.dtype, tokens_BT: Tensor) -> None:
    model, other = decoder(dtype), tokens_BT.clone()
    other[0, 5:16] = (other[0, 5:16] + 7) % 61
    before, after = logits(model, tokens_BT, LENGTHS), logits(model, other, LENGTHS)
    same = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    same[0, 5:16] = False
    assert torch.equal(before[same], after[same]) and (before != after).any(-1)[~same].all()


@pytest.mark.parametrize("lengths", [LENGTHS, [[5, 11, 4], [8, 20]]], ids=["in rows", "crossing rows"])
def test_a_packed_document_gets_what_it_gets_alone(lengths: list[list[int]], tokens_BT: Tensor) -> None:
    model = decoder()
    packed, at = logits(model, tokens_BT, lengths).flatten(0, 1), 0
    for length in (length for row in lengths for length in row):
        alone = logits(model, tokens_BT.flatten()[None, at : at + length], [[length]])[0]
        torch.testing.assert_close(packed[at : at + length], alone, rtol=1e-9, atol=1e-9)
        at += length


@pytest.mark.parametrize("prefill", [8_192, 7])
def test_the_cache_answers_as_without_it(prefill: int) -> None:
    model = decoder()
    engine = Engine(model, max_batch=3, max_tokens_in_cache=300, prefill_tokens=prefill)
    generator = torch.Generator().manual_seed(4)
    prompts = [torch.randint(61, (length,), generator=generator).tolist() for length in (3, 20, 9, 31)]
    answers = engine.generate(prompts, SamplingSettings(max_tokens=25))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for token in answer.ids:
            assert logits(model, torch.tensor([ids]), [[len(ids)]])[0, -1].argmax() == token
            ids.append(token)
        score = engine.score([(prompt, answer.ids)])[0]
        assert score.greedy


def test_blocks_compile_once_and_recomputing_changes_nothing(tokens_BT: Tensor) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled, again = decoder(), decoder(), decoder()
    compiled.compile_blocks("aot_eager")
    again.recompute = True
    for lengths in (LENGTHS, [[24], [24]]):
        flat = torch.tensor([length for row in lengths for length in row])
        cu = torch.cat([torch.zeros(1, dtype=torch.int32), flat.cumsum(0).int()])
        ids = torch.arange(len(flat)).repeat_interleave(flat).view(ROWS, LENGTH)
        positions = torch.cat([torch.arange(length) for length in flat]).view(ROWS, LENGTH)
        for model in (plain, compiled, again):
            model.zero_grad()
            attend = Documents(cu, LENGTH, ids, dtype=torch.float64)
            model(tokens_BT, positions, attend).square().sum().backward()
        for wanted, *found in zip(*(model.blocks.parameters() for model in (plain, compiled, again)), strict=True):
            for one in found:
                torch.testing.assert_close(one.grad, wanted.grad, rtol=1e-9, atol=1e-9)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"family": "llama"}, "choose family: baichuan"),
        ({"kv_heads": 1}, "as many key-value heads"),
        ({"tie_embeddings": True}, "a head of its own"),
        ({"rope_theta": 500_000.0}, "rope_theta 10000"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "are not stretched"),
        ({"max_positions": 70_000}, "up to 65,280 tokens"),
        ({"sliding_window": 8}, "no sliding window"),
    ],
)
def test_what_its_form_cannot_say_is_refused(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises((UserError, ValueError)) as refused:
        decoder(**more)
    assert complaint in str(refused.value)
