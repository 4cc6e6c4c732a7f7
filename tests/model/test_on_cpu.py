"""What a CPU computes in ways of its own, against float64 and against torch's own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from danlu.infer.cache import next_token_attention
from danlu.model.attention import Documents
from danlu.model.decoder import RMSNorm, gated
from danlu.model.linear_cpu import linear
from danlu.model.rope import rotate


@pytest.mark.parametrize(("shape", "biased"), [((3, 50, 24), True), ((3, 50, 24), False), ((1, 24), True)])
def test_products_and_their_gradients_are_those_of_float64(shape: tuple[int, ...], biased: bool) -> None:
    torch.manual_seed(0)
    given = [torch.randn(shape), torch.randn(40, 24), *([torch.randn(40)] if biased else [])]
    seed = torch.randn(*shape[:-1], 40)
    found = []
    for way, dtype in ((linear, torch.float32), (F.linear, torch.float64)):
        inputs = [tensor.to(dtype, copy=True).requires_grad_() for tensor in given]
        y = way(*inputs)
        y.backward(seed.to(dtype))
        found.append([y, *(one.grad for one in inputs)])
    with torch.no_grad():
        found[0].append(linear(*given))
        found[1].append(found[1][0])
    for ours, exact in zip(*found, strict=True):
        assert torch.allclose(ours.double(), exact, rtol=1e-5, atol=1e-4)


def test_what_is_frozen_gets_no_gradient() -> None:
    x, weight = torch.randn(100, 24), torch.randn(40, 24)
    y = linear(x.requires_grad_(), weight)
    y.sum().backward()
    assert weight.grad is None
    assert torch.allclose(x.grad, weight.sum(0).expand(100, -1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_rotation_is_a_complex_product_and_turns_gradients_back(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 1, 8).to(dtype).requires_grad_()
    angle = torch.randn(2, 5, 1, 1, 4, dtype=torch.float64)
    precise = torch.promote_types(dtype, torch.float32)
    turned = rotate(x, angle.cos().to(precise), angle.sin().to(precise))
    seed = torch.randn_like(turned)
    (back,) = torch.autograd.grad(turned, x, seed)

    def product(given: torch.Tensor, way: int) -> torch.Tensor:
        a, b = given.detach().double().chunk(2, -1)
        z = torch.complex(a, b) * torch.polar(torch.ones_like(angle), way * angle)
        return torch.cat((z.real, z.imag), -1)

    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for ours, exact in ((turned, product(x, 1)), (back, product(seed, -1))):
        assert ours.dtype == dtype
        assert torch.allclose(ours.double(), exact, atol=tolerance)
    with torch.no_grad():
        assert torch.allclose(rotate(x, angle.cos().to(precise), angle.sin().to(precise)), turned, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_a_decoding_step_attends_as_torch_does(dtype: torch.dtype, groups: int, masked: bool) -> None:
    torch.manual_seed(0)
    heads, size, length = 2, 16, 21
    q = torch.randn(4, 1, heads * groups, size).to(dtype)
    k, v = torch.randn(2, 4, heads, 32, size).transpose(2, 3)[:, :, :length]
    mask = torch.zeros(4, 1, 1, length).masked_fill(torch.rand(4, 1, 1, length) < 0.3, -torch.inf) if masked else None
    exact = F.scaled_dot_product_attention(
        q.double().transpose(1, 2), *(x.double().transpose(1, 2) for x in (k, v)),
        None if mask is None else mask.double(), enable_gqa=True,
    ).transpose(1, 2)  # fmt: skip
    ours = next_token_attention(q, k, v, mask)
    assert (ours.dtype, ours.shape) == (dtype, q.shape)
    assert torch.allclose(ours.double(), exact, atol=1e-5 if dtype == torch.float32 else 2e-2)


def test_gradients_of_attention_in_half_precision_are_those_of_float32() -> None:
    torch.manual_seed(0)
    documents = torch.tensor([[0] * 5 + [1] * 7, [2] * 12])
    cu = torch.tensor([0, 5, 12, 24], dtype=torch.int32)
    given, seed = torch.randn(3, 2, 12, 2, 8).bfloat16(), torch.randn(2, 12, 2, 8)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = [x.to(dtype).requires_grad_() for x in given]
        y = Documents(cu, 12, documents, dtype=dtype)(0, *inputs)
        assert y.dtype == dtype
        found.append([y, *torch.autograd.grad(y, inputs, seed.to(dtype))])
    for ours, exact in zip(*found, strict=True):
        assert torch.allclose(ours.float(), exact, atol=3e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", ["norm", "norm with a frozen weight", "gate"])
def test_norm_and_gate_have_the_gradients_of_their_formulas(part: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = [torch.randn(3, 7, 24, dtype=torch.float64), torch.randn(24, dtype=torch.float64)][: 1 + (part != "gate")]
    given = [one.to(dtype).double() for one in given]
    seed = torch.randn(3, 7, 12 if part == "gate" else 24, dtype=torch.float64).to(dtype)

    def ours(x: torch.Tensor, *weight: torch.Tensor) -> torch.Tensor:
        if not weight:
            return gated(x, "silu")
        norm = RMSNorm(24, 0.1)
        norm.weight = torch.nn.Parameter(weight[0], requires_grad=part == "norm")
        found["weight"] = norm.weight
        return norm(x)

    def formula(x: torch.Tensor, *weight: torch.Tensor) -> torch.Tensor:
        if not weight:
            return x[..., :12] / (1 + (-x[..., :12]).exp()) * x[..., 12:]
        return x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight[0]

    found: dict[str, torch.Tensor] = {}
    exact_inputs = [one.clone().requires_grad_() for one in given]
    exact = formula(*exact_inputs)
    exact.backward(seed.double())
    x = given[0].to(dtype).requires_grad_()
    y = ours(x, *(one.to(dtype) for one in given[1:]))
    y.backward(seed)
    pairs = [(y, exact), (x.grad, exact_inputs[0].grad)]
    if part == "norm":
        pairs.append((found["weight"].grad, exact_inputs[1].grad))
    elif found:
        assert found["weight"].grad is None
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    for own, true in pairs:
        assert own is not None and own.dtype == dtype
        assert float((own.detach().double() - true.detach()).norm() / true.detach().norm()) < tolerance
