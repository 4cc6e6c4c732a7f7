"""Products in float8 against float64: of the nearest float8 values exactly, of the values themselves within bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.model.decoder import Decoder
from danlu.model.float8 import E4M3, E5M2, linear
from danlu.model.parts import initialise
from danlu.model.projection import Projection
from danlu.model.settings import ModelSettings

ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 5e-3}
"""Of what a product gives, by its dtype."""


def nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in float64 with each value moved to the nearest one of the format's, whose largest is x's own largest; from
    halfway between two, to the one with an even code.
    """
    levels = torch.arange(128, dtype=torch.uint8).view(dtype).double()  # from 0 on, in order
    levels = levels[levels.isfinite()]
    scale = x.abs().max().float().clamp(min=1e-30) / float(levels.max())
    wide = (x.float() / scale).double()
    above = torch.bucketize(wide.abs(), levels).clamp(1, len(levels) - 1)
    up, down = levels[above] - wide.abs(), wide.abs() - levels[above - 1]
    code = torch.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)
    return levels[code] * wide.sign() * scale.double()


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-300))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 70),
    sixteens=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    size=st.sampled_from([1e-4, 1.0, 300.0]),
    d_size=st.sampled_from([1e-12, 1e-6, 10.0]),
    outlier=st.sampled_from([1.0, 50.0]),
    seed=st.integers(0, 99),
)
def test_three_products(
    rows: int,
    sixteens: tuple[int, int],
    dtype: torch.dtype,
    size: float,
    d_size: float,
    outlier: float,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    width, out = (16 * count for count in sixteens)
    x, w, dy = (torch.randn(shape, generator=random) for shape in ((rows, width), (out, width), (rows, out)))
    x[:, 0] *= outlier
    x, w, dy = ((value * scale).to(dtype) for value, scale in ((x, size), (w, 0.02), (dy, d_size)))
    x.requires_grad_()
    w.requires_grad_()
    y = linear(x, w)
    y.backward(dy)
    assert x.grad is not None and w.grad is not None
    assert y.dtype == x.grad.dtype == w.grad.dtype == dtype
    x8, w8, dy8 = nearest(x.detach(), E4M3), nearest(w.detach(), E4M3), nearest(dy, E5M2)
    found = (y.detach(), x.grad, w.grad)
    for one, rounded in zip(found, (x8 @ w8.t(), dy8 @ w8, dy8.t() @ x8), strict=True):
        assert apart(one, rounded) < ROUNDING[dtype]
    if rows < 16:
        return
    x64, w64, dy64 = x.detach().double(), w.detach().double(), dy.double()
    exact = (x64 @ w64.t(), dy64 @ w64, dy64.t() @ x64)
    for one, plain, limit in zip(found, exact, (0.08, 0.12, 0.12), strict=True):
        assert apart(one, plain) < limit


def test_zeros_give_zeros_and_no_number_gives_none() -> None:
    w = torch.randn(16, 32, requires_grad=True)
    x = torch.zeros(4, 32, requires_grad=True)
    linear(x, w).sum().backward()
    assert torch.equal(linear(x, w), torch.zeros(4, 16))
    assert torch.equal(w.grad, torch.zeros(16, 32))
    assert not linear(torch.full((4, 32), float("nan")), w).isfinite().any()
    assert not linear(torch.full((4, 32), float("inf")), w).isfinite().any()


def test_leading_dimensions_and_a_frozen_weight() -> None:
    x, w = torch.randn(2, 3, 5, 32, requires_grad=True), torch.randn(48, 32)
    y = linear(x, w)
    y.sum().backward()
    assert y.shape == (2, 3, 5, 48) and x.grad is not None
    torch.testing.assert_close(y.flatten(0, 2), linear(x.flatten(0, 2), w))


@pytest.mark.prove
def test_compiled_blocks_are_the_plain_ones() -> None:
    shape = ModelSettings(
        family="qwen2", vocab_size=64, hidden_size=64, layers=2, heads=4, kv_heads=2, mlp_size=96, init_std=0.1
    )
    tokens = torch.randint(64, (2, 24), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(24).expand(2, 24)

    def attend(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(
            1, 2
        )

    found = []
    for in_float8, compiled, recompute in ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)):
        decoder = Decoder.empty(shape)
        initialise(decoder, 0)
        decoder.to(torch.bfloat16 if in_float8 else torch.float64)
        decoder.recompute = bool(recompute)
        for slot in decoder.blocks.modules():
            if isinstance(slot, Projection):
                slot.float8 = bool(in_float8)
        if compiled:
            decoder.compile_blocks()
        hidden = decoder(tokens, positions, attend)
        (hidden.double() ** 2 * torch.arange(64)).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None]).double())
    exact, plain, *compiled_ones = found
    assert apart(plain, exact) < 0.15
    for one in compiled_ones:
        assert apart(one, exact) < 1.2 * apart(plain, exact)
