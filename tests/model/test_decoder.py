"""The decoder: documents apart, paths equal, compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.model.attention import Documents, document_mask
from danlu.model.decoder import Decoder, gated
from danlu.model.parts import fused_state, initialise, load_unfused, unfused_state
from danlu.model.settings import ModelSettings

ROWS, LENGTH = 2, 24
LENGTHS = [[5, 11, 1, 7], [16, 8]]


def decoder(dtype: torch.dtype = torch.float32, seed: int = 0, **shape: Any) -> Decoder:
    small = {"vocab_size": 61, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 48} | shape
    made = Decoder.empty(ModelSettings.model_validate(small), torch.float32)
    initialise(made, seed)
    state = unfused_state(made)
    load_unfused(made, {name: weight * 5 if weight.ndim == 2 else weight for name, weight in state.items()})
    return made.to(dtype)


def documents(lengths: list[list[int]], window: int | None, dtype: torch.dtype, longest: int = LENGTH) -> Documents:
    cu, document_BT, _ = layout(lengths)
    return Documents(cu, longest, document_BT, window, dtype)


def layout(lengths: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """cu, document ids and positions of rows that hold documents of these lengths."""
    flat = torch.tensor([length for row in lengths for length in row])
    cu = torch.cat([torch.zeros(1, dtype=torch.int32), flat.cumsum(0).int()])
    document_BT = torch.arange(len(flat)).repeat_interleave(flat).view(len(lengths), -1)
    positions_BT = torch.cat([torch.arange(length) for length in flat]).view(len(lengths), -1)
    return cu, document_BT, positions_BT


def logits(model: Decoder, tokens_BT: Tensor, lengths: list[list[int]] = LENGTHS) -> Tensor:
    attend = documents(lengths, model.settings.sliding_window, model.embed.weight.dtype)
    return model.head.logits(model(tokens_BT, layout(lengths)[2], attend))


@pytest.fixture
def tokens_BT() -> Tensor:
    return torch.randint(61, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("window", [None, 4])
def test_changing_a_document_leaves_the_others_bit_for_bit(
    dtype: torch.dtype, window: int | None, tokens_BT: Tensor
) -> None:
    model = decoder(dtype, sliding_window=window)
    other = tokens_BT.clone()
    other[0, 5:16] = (other[0, 5:16] + 7) % 61
    with torch.no_grad():
        before, after = logits(model, tokens_BT), logits(model, other)
    same = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    same[0, 5:16] = False
    assert torch.equal(before[same], after[same])
    assert (before != after).any(-1)[~same].all()


def test_a_packed_document_gets_what_it_gets_alone(tokens_BT: Tensor) -> None:
    model = decoder(torch.float64)
    with torch.no_grad():
        packed = logits(model, tokens_BT)
        for row, starts in enumerate(LENGTHS):
            at = 0
            for length in starts:
                alone = logits(model, tokens_BT[row : row + 1, at : at + length], [[length]])
                torch.testing.assert_close(packed[row, at : at + length], alone[0], rtol=1e-12, atol=1e-12)
                at += length


@pytest.mark.parametrize("window", [None, 1, 4, 100])
def test_the_mask_is_its_definition(window: int | None) -> None:
    _, document_BT, positions_BT = layout(LENGTHS)
    mask = document_mask(document_BT, window)
    for row in range(ROWS):
        for query in range(LENGTH):
            for key in range(LENGTH):
                near = window is None or query - key < window
                together = document_BT[row, query] == document_BT[row, key]
                assert mask[row, 0, query, key] == (together and key <= query and near)
    assert positions_BT.max() == 15


def test_a_token_sees_nothing_after_it(tokens_BT: Tensor) -> None:
    model = decoder(torch.float64)
    other = tokens_BT.clone()
    other[1, 10] = (other[1, 10] + 1) % 61
    whole = [[LENGTH], [LENGTH]]
    with torch.no_grad():
        before, after = logits(model, tokens_BT, whole), logits(model, other, whole)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1, :10], after[1, :10])
    assert (before[1, 10:] != after[1, 10:]).any(-1).all()


def test_flat_document_ids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, T\]"):
        Documents(torch.tensor([0, 4]), 4, torch.zeros(4))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_recomputing_changes_nothing(tied: bool, dtype: torch.dtype, tokens_BT: Tensor) -> None:
    model = decoder(dtype, tie_embeddings=tied)
    found = []
    for model.recompute in (False, True):
        model.zero_grad()
        hidden = model(tokens_BT, layout(LENGTHS)[2], documents(LENGTHS, None, dtype))
        out = model.head(hidden.flatten(0, 1), tokens_BT.flatten())
        out.nll.backward()
        found.append([out.nll.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.prove)])
@pytest.mark.parametrize("shape", [{}, {"family": "qwen3", "tie_embeddings": False, "sliding_window": 5}])
def test_blocks_compile_once_for_all_layers_and_batches(
    backend: str, shape: dict[str, Any], tokens_BT: Tensor, fresh_compiler: None
) -> None:
    model, plain = decoder(layers=3, **shape), decoder(layers=3, **shape)
    model.compile_blocks(backend)
    for number, lengths in enumerate([LENGTHS, [[24], [24]], [[3, 21], [1, 1, 22]]]):
        attend = documents(lengths, plain.settings.sliding_window, torch.float32, longest=8 + number)
        for each in (model, plain):
            each.zero_grad()
            each((tokens_BT + number) % 61, layout(lengths)[2], attend).square().sum().backward()
        for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
            if expected.grad is not None:
                torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-3)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_parts_see_into_fused_parameters(tokens_BT: Tensor) -> None:
    model = decoder(torch.float64)
    settings = model.settings
    parts = {part.name: part for part in model.parts()}
    block = model.blocks[0]
    with torch.no_grad():
        x = torch.randn(3, 32, dtype=torch.float64)
        fused = block.qkv(x).view(3, settings.kv_heads, -1, settings.head_size)
        for slot, expected in {"q": fused[:, :, :2], "k": fused[:, :, 2], "v": fused[:, :, 3]}.items():
            weight, bias = (parts[f"layers.0.{slot}.{kind}"] for kind in ("weight", "bias"))
            ours = torch.nn.functional.linear(x, weight.read(weight.parameter), bias.read(bias.parameter))
            torch.testing.assert_close(ours, expected.flatten(1))
    k = parts["layers.1.k.weight"]
    moment = torch.zeros_like(k.parameter)
    k.write(moment, torch.ones(k.shape, dtype=torch.float64))
    assert moment.sum() == k.shape[0] * k.shape[1] and k.read(moment).eq(1).all()
    assert parts["layers.1.q.weight"].read(moment).eq(0).all()
    assert sum(part.read(part.parameter).numel() for part in parts.values()) == sum(
        parameter.numel() for parameter in model.parameters()
    )


def test_unfused_and_fused_are_each_others_reverse() -> None:
    model = decoder(family="qwen3", tie_embeddings=False)
    state = unfused_state(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(fused_state(model, state)[name], parameter)
    squares = {name: parameter.detach() ** 2 for name, parameter in model.named_parameters()}
    assert all(torch.equal(value, state[name] ** 2) for name, value in unfused_state(model, squares).items())
    with pytest.raises(KeyError):
        load_unfused(model, {name: value for name, value in state.items() if "q_proj" not in name})
    with pytest.raises(ValueError, match="is"):
        load_unfused(model, state | {"model.norm.weight": torch.ones(3)})


def test_initial_weights_follow_from_seed_and_name_alone() -> None:
    small, large = decoder(layers=1, seed=7), decoder(layers=3, seed=7)
    ours, more, other = (unfused_state(model) for model in (small, large, decoder(layers=1, seed=8)))
    assert all(torch.equal(weight, more[name]) for name, weight in ours.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in ours.items() if weight.ndim == 2)


def test_half_weights_keep_exact_positions() -> None:
    model = decoder(torch.bfloat16)
    far = torch.tensor([[30_001]])
    cos, sin = model.places(far, torch.bfloat16)
    frequencies = 10_000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    torch.testing.assert_close(cos[0, 0, 0, 0].double(), (30_001 * frequencies).cos(), atol=2e-3, rtol=0)
    torch.testing.assert_close(sin[0, 0, 0, 0].double(), (30_001 * frequencies).sin(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_is_the_plain_one_with_its_gradient(device: str, dtype: torch.dtype) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    generator = torch.Generator().manual_seed(5)
    for rows, width in ((1, 8), (7, 48), (3, 4864)):
        values = torch.randn(2, rows, 2 * width, generator=generator)
        ours = values.to(device, dtype).requires_grad_()
        exact = ours.detach().double().requires_grad_()
        gate, up = exact.chunk(2, dim=-1)
        wanted = torch.nn.functional.silu(gate) * up
        found = gated(ours, "silu")
        tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(found, wanted.to(dtype), **tolerance)
        push = torch.randn(found.shape, generator=generator)
        found.backward(push.to(found))
        wanted.backward(push.to(wanted))
        torch.testing.assert_close(ours.grad, exact.grad.to(dtype), **tolerance)
