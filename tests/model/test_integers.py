"""Weights of 8 and 4 bits: close to the weights, multiplied as they are, and as small as promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.infer.cache import Causal
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.integers import Int4, Int8, to_int4, to_int8
from danlu.model.open import Quantisation, open_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings


def held(decoder: Decoder) -> int:
    """Bytes of all weights, each counted once."""
    tensors = {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = ModelSettings(
        vocab_size=512, hidden_size=64, layers=2, heads=4, kv_heads=2, mlp_size=192, tie_embeddings=request.param,
        init_std=0.2,
    )  # fmt: skip
    decoder = Decoder.empty(shape)
    initialise(decoder, 3)
    made = tmp_path_factory.mktemp("model") / "folder"
    save_decoder(decoder, made)
    return made


@pytest.mark.parametrize("make", [to_int8, to_int4])
def test_no_value_is_further_than_half_a_level(make: type) -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 128) * torch.rand(32, 1)
    weight[0] = 0
    stands_for = make(weight).dequantised(torch.float32)
    if make is to_int8:
        step = weight.abs().amax(1, keepdim=True) / 127
    else:
        blocks = weight.view(32, 2, 64)
        step = ((blocks.amax(-1) - blocks.amin(-1)) / 15 * 1.1).repeat_interleave(64, 1)  # scales are bf16
    assert ((stands_for - weight).abs() <= step * 0.52 + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [to_int8, to_int4])
def test_products_are_those_of_the_weight_that_is_stood_for(make: type, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made, bias = make(torch.randn(48, 160)), torch.randn(48, dtype=dtype)
    x = torch.randn(2, 3, 160, dtype=dtype)
    expected = x.double() @ made.dequantised(torch.float64).t() + bias.double()
    got = made(x, bias)
    assert got.shape == (2, 3, 48) and got.dtype == dtype
    assert (got.double() - expected).norm() <= 0.012 * expected.norm()
    assert torch.equal(made(torch.zeros(1, 160), None), torch.zeros(1, 48))


@pytest.mark.parametrize("make", [to_int8, to_int4])
def test_no_row_depends_on_the_others(make: type) -> None:
    torch.manual_seed(0)
    made, x = make(torch.randn(32, 64)), torch.randn(5, 64)
    x[1] *= 1000
    together = made(x, None)
    for row in range(5):
        torch.testing.assert_close(together[row], made(x[row], None), rtol=1e-6, atol=1e-6)


def test_what_the_kernel_of_4_bits_does_not_take_gets_8() -> None:
    assert isinstance(to_int4(torch.randn(32, 96)), Int4)
    assert isinstance(to_int4(torch.randn(32, 40)), Int8)
    assert isinstance(to_int4(torch.randn(24, 64)), Int8)


@pytest.mark.parametrize(("kind", "distance"), [("int8", 0.05), ("int4", 0.5)])
def test_a_folder_opened_small_predicts_alike(folder: Path, kind: Quantisation, distance: float) -> None:
    whole, small = open_decoder(folder), open_decoder(folder, quantisation=kind)
    tokens = torch.randint(512, (3, 20), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(20).expand(3, 20)
    with torch.inference_mode():
        expected, got = (d.head.logits(d(tokens, positions, Causal())) for d in (whole, small))
        scores = [d.head(d(tokens, positions, Causal())[0, :-1], tokens[0, 1:]).logp for d in (whole, small)]
    assert 0 < (got - expected).norm() / expected.norm() < distance
    assert 0 < (scores[0] - scores[1]).abs().mean() < 10 * distance
    assert held(small) < held(whole) * (0.28 if kind == "int8" else 0.24)
    kinds = {type(module) for module in small.modules()}
    assert Int8 in kinds and (Int4 in kinds) == (kind == "int4")
