"""Prints how far projections with adapters in place, and their gradients, lie from plain ones in float64.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.adapted_cuda import adapted, adapted_after_gate, add_product
from danlu.model.nf4 import quantise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IN, OUT, RANK = 64, 48, 4


def errors(in_4_bits: bool, gate: bool) -> list[float]:
    torch.manual_seed(0)
    weight = torch.randn(OUT, IN, device=DEVICE)
    made = quantise(weight)
    exact = made.dequantised(torch.float64) if in_4_bits else weight.double()
    x, a, b = (torch.randn(*size, device=DEVICE) for size in ((2, 3, IN * (1 + gate)), (RANK, IN), (OUT, RANK)))
    push = torch.randn(2, 3, OUT, device=DEVICE)
    given = [value.requires_grad_() for value in (x, a, b)]
    function, held = adapted_after_gate if gate else adapted, made.held if in_4_bits else (weight,)
    y = function(x, a, b, held)
    found = [y, *torch.autograd.grad(y, given, push)]
    doubles = [value.detach().double().requires_grad_() for value in given]
    plain = _plain(doubles, exact, gate)
    expected = [plain, *torch.autograd.grad(plain, doubles, push.double())]
    return [
        float((got.detach().double() - wanted.detach()).norm() / wanted.detach().norm())
        for got, wanted in zip(found, expected, strict=True)
    ]


def _plain(given: list[Tensor], weight: Tensor, gate: bool) -> Tensor:
    x, a, b = given
    if gate:
        x = F.silu(x[..., :IN]) * x[..., IN:]
    return F.linear(x, weight) + F.linear(F.linear(x, a), b)


def sums(rows: int, columns: int, rank: int, dtype: torch.dtype, across: bool) -> float:
    """How far y += low up lies from float64, in roundings of y; `across`: up as a transposed view."""
    torch.manual_seed(0)
    y, low = torch.randn(rows, columns, device=DEVICE).to(dtype), torch.randn(rows, rank, device=DEVICE).to(dtype)
    up = (
        torch.randn(columns, rank, device=DEVICE).to(dtype).t() if across else torch.randn(rank, columns, device=DEVICE)
    )
    up = up.to(dtype)
    wanted = y.double() + low.double() @ up.double()
    add_product(y, low, up)
    return float((y.double() - wanted).norm() / wanted.norm()) / torch.finfo(dtype).eps


if __name__ == "__main__":
    cases = [(in_4_bits, gate) for in_4_bits in (False, True) for gate in (False, True)]
    shapes = [(5, 24, 4), (130, 264, 16), (16, 9300, 72), (200, 1000, 72)]
    half = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    added = {
        f"{shape}, {dtype}, {across}": sums(*shape, dtype, across)
        for shape in shapes
        for dtype in (torch.float32, half)
        for across in (False, True)
    }
    found = {f"4 bits {in_4_bits}, gate {gate}": errors(in_4_bits, gate) for in_4_bits, gate in cases}
    print(json.dumps({"adapted": found, "added": added}))
