"""Prints how far projections with adapters and dropout, and their gradients, lie from plain ones in float64 that have
the same mask, and what masks are like.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from danlu.model.adapted_cuda import adapted, adapted_after_gate
from danlu.model.dropout_cuda import begun, constants, drop, dropped_product, kept, new_seed
from danlu.model.nf4 import quantise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter cuts bfloat16 off
P = 0.3


def away(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest of their relative distances."""
    pairs = zip(found, wanted, strict=True)
    return max(float((got.double() - want).norm() / want.norm()) for got, want in pairs)


def errors(in_4_bits: bool, gate: bool, rows: int, width: int, rank: int, dtype: torch.dtype) -> float:
    """Of the result and the gradients of all that is given."""
    torch.manual_seed(0)
    weight = torch.randn(48, width, device=DEVICE).to(dtype)
    made = quantise(weight)
    exact = made.dequantised(dtype).double() if in_4_bits else weight.double()
    sizes = ((2, rows, width * (1 + gate)), (rank, width), (48, rank), (2, rows, 48))
    x, a, b, push = (torch.randn(*size, device=DEVICE).to(dtype) for size in sizes)
    given = [value.requires_grad_() for value in (x, a, b)]
    torch.manual_seed(1)
    y = (adapted_after_gate if gate else adapted)(*given, made.held if in_4_bits else (weight,), P)
    torch.manual_seed(1)
    mask = drop(torch.ones(2, rows, width, device=DEVICE), new_seed(x), P).double()
    doubles = [value.detach().double().requires_grad_() for value in given]
    inner = F.silu(doubles[0][..., :width]) * doubles[0][..., width:] if gate else doubles[0]
    plain = F.linear(inner, exact) + F.linear(F.linear(inner * mask, doubles[1]), doubles[2])
    wanted = [plain, *torch.autograd.grad(plain, doubles, push.double())]
    return away([y.detach(), *torch.autograd.grad(y, given, push)], [value.detach() for value in wanted])


def products(rows: int, width: int, rank: int) -> float:
    """Of both products of drop(x), in float32."""
    torch.manual_seed(0)
    x, a, low = (torch.randn(*size, device=DEVICE) for size in ((rows, width), (rank, width), (rows, rank)))
    seed = new_seed(x)
    dropped = drop(x, seed, P).double()
    found = [dropped_product(x, a, seed, P, False), dropped_product(x, low, seed, P, True)]
    return away(found, [dropped @ a.double().t(), low.double().t() @ dropped])


def surprises(p: float) -> dict[str, float]:
    """How many standard deviations the kept share, and what masks have in common, lie from those of a coin."""
    rows, width = 160, 1_000
    ones, seeds = torch.ones(rows, width, device=DEVICE), []
    for number in range(3):
        torch.manual_seed(number)
        seeds.append(new_seed(ones))
    masks = [drop(ones, seed, p) for seed in seeds]
    assert {float(value) for value in masks[0].unique()} == {0.0, float(torch.tensor(1 / (1 - p)))}
    whole, *others = ((mask > 0).double() - (1 - p) for mask in masks)
    spread = p * (1 - p)

    def common(one: Tensor, other: Tensor) -> float:
        return float((one * other).mean()) / spread * math.sqrt(one.numel())

    found = {
        f"columns {step} apart": common(whole[:, step:], whole[:, :-step]) for step in (1, 2, 3, 8, 16, 64, 128, 512)
    }
    found |= {f"rows {step} apart": common(whole[step:], whole[:-step]) for step in (1, 2, 3, 16, 64, 128)}
    found |= {f"other seed {number}": common(whole, other) for number, other in enumerate(others)}
    found["share"] = float(whole.sum()) / math.sqrt(spread * whole.numel())
    for dim in (0, 1):  # squares of sums over rows and over columns
        sums = whole.sum(dim)
        found[f"sums {dim}"] = float((sums.square() / (spread * whole.shape[dim]) - 1).sum()) / math.sqrt(2 * len(sums))
    return found


@triton.jit
def _mask_of(out, seed, first, span: tl.constexpr, least: tl.constexpr, scale: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.arange(0, 64), tl.arange(0, 64)
    lower, upper = begun(seed, tl.load(first) + row[:, None], span)
    tl.store(out + row[:, None] * 64 + column[None, :], kept(lower, upper, column[None, :], least).to(tl.int8))


def far() -> dict[str, bool]:
    """Whether a mask's first rows are like the product's, and unlike those at which places begin anew in 32 bits."""
    torch.manual_seed(0)
    ones = torch.ones(64, 64, device=DEVICE)
    seed, masks = new_seed(ones), []
    for first in (0, 1 << 26, 1 << 27):
        out = torch.zeros(64, 64, dtype=torch.int8, device=DEVICE)
        _mask_of[(1,)](out, seed, torch.tensor([first], device=DEVICE), **constants(0.5, 64))
        masks.append(out.bool())
    shares = [float((one == masks[0]).double().mean()) for one in masks]
    return {
        "first": torch.equal(masks[0], drop(ones, seed, 0.5) > 0),
        "others": all(0.45 < s < 0.55 for s in shares[1:]),
    }


def compiled(recompute: bool) -> dict[str, object]:
    """Of a compiled product, how far what is linear in x, A or B lies from the sum of value times gradient (with equal
    masks in both passes only they are the same), whether a state of the generator decides the result, and the widths
    of what is kept of each row from one pass to the other.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    sizes = ((1, 37, 64), (4, 64), (48, 4), (48, 64), (1, 37, 48))
    x, a, b, weight, push = (torch.randn(*size, device=DEVICE) for size in sizes)
    given = [value.requires_grad_() for value in (x, a, b)]
    plain = lambda *given: adapted(*given, (weight,), P)  # noqa: E731
    product = torch.compile(plain, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    widths: list[int] = []

    def keep(value: Tensor) -> Tensor:
        if 37 in value.shape:
            widths.append(value.numel() // 37)
        return value

    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        widths.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            y = checkpoint(product, *given, use_reentrant=False) if recompute else product(*given)
        results.append([y.detach(), *torch.autograd.grad(y, given, push)])
    base = F.linear(x.detach().double(), weight.double())
    y = results[0][0].double()
    wholes = (y, y - base, y - base)  # what is linear in x, in A and in B: the sum of value times gradient
    apart = [
        float((value.detach() * d).sum() / (whole * push).sum()) - 1
        for value, d, whole in zip(given, results[0][1:], wholes, strict=True)
    ]
    return {
        "apart": max(abs(value) for value in apart),
        "same": all(torch.equal(one, other) for one, other in zip(*results[:2], strict=True)),
        "other": not torch.equal(results[0][0], results[2][0]),
        "kept": sorted(widths),
    }


if __name__ == "__main__":
    cases = [(in_4_bits, gate) for in_4_bits in (False, True) for gate in (False, True)]
    sizes = [((3, 64, 4), dtype, case) for dtype in (torch.float32, HALF) for case in cases]
    sizes += [((40, 192, 80), torch.float32, case) for case in cases[1:3]]
    found = {
        f"{shape}, {dtype}, 4 bits {case[0]}, gate {case[1]}": errors(*case, *shape, dtype) / torch.finfo(dtype).eps
        for shape, dtype, case in sizes
    }
    more = {str(shape): products(*shape) for shape in ((5, 24, 4), (130, 200, 48), (65, 72, 300))}
    masks = {str(p): surprises(p) for p in (0.05, 0.5, 0.9)}
    again = {str(recompute): compiled(recompute) for recompute in (False, True)}
    print(json.dumps({"adapted": found, "products": more, "masks": masks, "far": far(), "compiled": again}))
