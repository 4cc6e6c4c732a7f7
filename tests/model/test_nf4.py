"""NF4: bitsandbytes' format, products and their gradients, loading layer by layer, merging back."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.infer.cache import Causal
from danlu.model import folder as folders
from danlu.model.adapt import AdapterShape, attach, merge, slots
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.nf4 import BITS, NF4, dynamic_code, quantise
from danlu.model.open import open_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import bitsandbytes.functional as bnb

SHAPE = ModelSettings(vocab_size=50, hidden_size=64, layers=3, heads=4, kv_heads=2, mlp_size=96, init_std=0.05)


def test_the_8_bit_code_is_bitsandbytes() -> None:
    assert torch.equal(dynamic_code(), bnb.create_dynamic_map())


@pytest.mark.parametrize("size", [(96, 128), (7, 64), (333, 192), (5, 70)])
def test_the_format_is_bitsandbytes(size: tuple[int, int]) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(sum(size))) * 0.02
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True, blocksize=64)
    mine = quantise(weight)
    count = packed.numel()
    assert (mine.packed[:count] != packed.view(-1)).float().mean() < 1e-4  # ties
    assert (mine.scales != state.absmax).float().mean() < 0.01  # bitsandbytes does not always take the nearest
    assert torch.equal(mine.coarse, state.state2.absmax) and torch.equal(mine.mean, state.offset)
    theirs = bnb.dequantize_4bit(packed, state)
    ours = mine.dequantised(torch.float32)
    assert (ours - theirs).abs().mean() < 1e-4 * weight.abs().mean()
    held = sum(buffer.numel() * buffer.element_size() for name, buffer in mine.named_buffers() if name not in TABLES)
    assert held <= weight.numel() * BITS / 8 + 64 + 8


TABLES = ("levels", "code")


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(1, 150), large=st.floats(1e-6, 1e4), seed=st.integers(0, 99))
def test_no_value_is_further_than_half_a_step(rows: int, width: int, large: float, seed: int) -> None:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * large
    back = quantise(weight).dequantised(torch.float32)
    assert back.shape == weight.shape
    # Half the widest step, 0.152, and what 8 bits do to the scale of a block.
    assert (back - weight).abs().max() <= 0.2 * weight.abs().max()


def test_zeros_stay_zero() -> None:
    assert not quantise(torch.zeros(3, 64)).dequantised(torch.float32).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_products_and_gradients(dtype: torch.dtype, compiled: bool) -> None:
    held = quantise(torch.randn(48, 64))
    weight = held.dequantised(dtype)
    x, bias = torch.randn(5, 64, dtype=dtype, requires_grad=True), torch.randn(48, dtype=dtype)
    call = torch.compile(held, backend="aot_eager", fullgraph=True) if compiled else held
    y = call(x, bias)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    expected = x @ weight.T + bias
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    assert torch.allclose(y, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert torch.allclose(
        gradient, wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-1 if dtype == torch.bfloat16 else 1e-3
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    decoder = Decoder.empty(SHAPE)
    initialise(decoder, 0)
    save_decoder(decoder, tmp_path_factory.mktemp("nf4") / "base", shard_bytes=60_000)
    return next(tmp_path_factory.getbasetemp().glob("nf4*/base"))


def test_loaded_layer_by_layer(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, most = open_decoder(base), []
    pour = folders.pour

    def watched(decoder: Decoder, *rest: object) -> None:
        held = [slot.weight for _, _, slot in slots(decoder) if slot.weight is not None]
        most.append(sum(weight.numel() for weight in held if weight.device.type != "meta"))
        pour(decoder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(folders, "pour", watched)
    made = open_decoder(base, quantisation="nf4")
    layer = sum(slot.weight.numel() for number, _, slot in slots(whole) if number == 0)
    assert max(most) == layer and most[-1] == 0
    for (_, _, mine), (_, _, exact) in zip(slots(made), slots(whole), strict=True):
        assert isinstance(mine.quantised, NF4)
        assert torch.equal(mine.whole_weight(torch.float32), quantise(exact.weight).dequantised(torch.float32))
        assert mine.bias is None or torch.equal(mine.bias, exact.bias)
    assert torch.equal(made.embed.weight, whole.embed.weight) and torch.equal(made.norm.weight, whole.norm.weight)


def logits(decoder: Decoder) -> torch.Tensor:
    tokens = torch.arange(12)[None] % 50
    return decoder.head.logits(decoder(tokens, torch.arange(12)[None], Causal()))


def test_merged_back_it_computes_the_same(base: Path) -> None:
    decoder = open_decoder(base, quantisation="nf4")
    attach(decoder, AdapterShape(rank=4, alpha=8, magnitudes=True), 0)
    before = logits(decoder)
    assert torch.allclose(before, logits(open_decoder(base, quantisation="nf4")), atol=1e-4), "B is zero"
    merge(decoder, torch.float32)
    assert torch.allclose(logits(decoder), before, atol=1e-4)
    assert all(slot.quantised is None for _, _, slot in slots(decoder))


def test_compiled_no_weight_is_kept_in_16_bits() -> None:
    decoder, size = Decoder.empty(SHAPE, torch.bfloat16), SHAPE.hidden_size
    initialise(decoder, 0)
    slot = decoder.blocks[0].gate_up
    slot.quantise(quantise(slot.weight.data))
    x = torch.randn(5, size, dtype=torch.bfloat16, requires_grad=True)
    plain = slot(x)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    largest, own = [], {buffer.data_ptr() for buffer in slot.buffers()}

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        largest.append(0 if tensor.data_ptr() in own else tensor.numel())
        return tensor

    compiled = torch.compile(slot, backend="aot_eager_decomp_partition", fullgraph=True)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        y = compiled(x)
    (found,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.allclose(found, expected, rtol=2e-2, atol=1e-3)
    assert largest and max(largest) < slot.in_features * slot.out_features
