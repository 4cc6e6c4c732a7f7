"""Prints how far products with a frozen base in float8, with and without adapters, and their gradients, lie from those
in float64 of the nearest float8 values, and from those of the values themselves.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.adapted_cuda import adapted, adapted_after_gate
from danlu.model.adapters import LoRA, Pair
from danlu.model.dropout_cuda import drop, new_seed
from danlu.model.float8_cuda import rounded_weight
from danlu.model.float8_frozen import linear, weight_scale
from danlu.model.nf4 import quantise
from danlu.model.projection import Projection
from danlu.train.float8 import use_float8

ON_GPU = torch.cuda.is_available()
DEVICE, P = "cuda" if ON_GPU else "cpu", 0.3
DTYPE = torch.bfloat16 if ON_GPU else torch.float32  # the interpreter cuts bfloat16 off
E4M3 = torch.float8_e4m3fn
LEVELS = torch.arange(127, dtype=torch.uint8).view(E4M3).double().to(DEVICE)


def rounding_as_the_gpu_does() -> None:
    """Triton's interpreter loses the carry of a mantissa that is rounded up, and cuts small numbers off."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def converted(values: Any, given: Any, wanted: Any, mode: Any) -> Any:
        if (given, wanted) == (tl.float32, tl.float8e4nv):
            return torch.from_numpy(values.copy()).to(E4M3).view(torch.uint8).numpy()
        return convert(values, given, wanted, mode)

    interpreter._convert_float = converted


def nearest(x: Tensor, largest: Tensor) -> Tensor:
    """Each value of x as the nearest one in e4m3, the largest of which stands for `largest`; in float64."""
    scale = largest.float() / 448
    wide = (x.float() / scale).double()
    above = torch.bucketize(wide.abs().contiguous(), LEVELS).clamp(1, len(LEVELS) - 1)
    up, down = LEVELS[above] - wide.abs(), wide.abs() - LEVELS[above - 1]
    code = torch.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)
    return LEVELS[code] * wide.sign() * scale.double()


def by_row(x: Tensor) -> Tensor:
    return nearest(x, x.abs().amax(-1, keepdim=True))


class Rounded(torch.autograd.Function):
    """x W^T in float64 of x and of the gradient rounded row by row; of the values themselves where `exact`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, exact: bool) -> Tensor:
        ctx.weight, ctx.exact = weight, exact
        return (x if exact else by_row(x.to(DTYPE))) @ weight.t()

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        return (d_y if ctx.exact else by_row(d_y.to(DTYPE))) @ ctx.weight, None, None


def errors(
    in_4_bits: bool, gate: bool, p: float, width: int, rank: int, bias: bool, in_place: bool
) -> tuple[float, float]:
    """The largest relative distance of result and gradients from those of rounded values, and of the values."""
    torch.manual_seed(0)
    slot = Projection(width, {"only": 144}, bias=bias).to(DEVICE, DTYPE).requires_grad_(False)
    x, a, b = (torch.randn(*size, device=DEVICE) for size in ((2, 3, width * (1 + gate)), (rank, width), (144, rank)))
    x *= torch.tensor([[1.0], [30.0], [1e-3]], device=DEVICE)
    x, a, b = x.to(DTYPE), (a / width**0.5).to(DTYPE), (b / (4 * rank**0.5)).to(DTYPE)  # as large as the base's
    push = (torch.randn(2, 3, 144, device=DEVICE) * torch.tensor([[1e-9], [1e-4], [1.0]], device=DEVICE)).to(DTYPE)
    if not gate:  # not laid out row after row
        x, push = (value.transpose(0, 1).contiguous().transpose(0, 1) for value in (x, push))
    if in_4_bits:
        slot.quantise(quantise(slot.weight.data))
    pair = Pair(["only"], a, b, 2.0)
    slot.adapters = LoRA([pair])
    use_float8(nn.ModuleList([slot]))
    a, b = pair.a, pair.b
    x.requires_grad_()
    torch.manual_seed(1)
    if in_place:
        function = adapted_after_gate if gate else adapted
        y = function(x, a, 2.0 * b, slot.held, p, slot.float8_scale)
        y = y if slot.bias is None else y + slot.bias
    else:
        y = slot(F.silu(x[..., :width]) * x[..., width:] if gate else x)
    found = [y.detach(), *torch.autograd.grad(y, (x, a, b), push)]
    torch.manual_seed(1)
    mask = drop(torch.ones(2, 3, width, device=DEVICE), new_seed(x), p).double() if p else 1.0
    weight = slot.whole_weight(torch.float32)
    distances = []
    for exact in (False, True):
        given = [value.detach().double().requires_grad_() for value in (x, a, b)]
        inner = F.silu(given[0][..., :width]) * given[0][..., width:] if gate else given[0]
        base = Rounded.apply(inner, weight.double() if exact else nearest(weight, weight.abs().max()), exact)
        plain = base + 2 * F.linear(F.linear(inner * mask, given[1]), given[2])
        plain = plain if slot.bias is None else plain + slot.bias.double()
        wanted = [plain.detach(), *torch.autograd.grad(plain, given, push.double())]
        rows = [value.flatten(0, -2) for value in (*found, *wanted)]  # a row by itself, so that small ones count
        pairs = zip(rows[:2], rows[4:6], strict=True)
        far = [float(((one.double() - other).norm(dim=1) / other.norm(dim=1)).max()) for one, other in pairs]
        pairs = zip(found[2:], wanted[2:], strict=True)
        far += [float((one.double() - other).norm() / other.norm()) for one, other in pairs]
        distances.append(max(far))
    return distances[0], distances[1]


def weights_apart(in_4_bits: bool, rows: int, columns: int, across: bool) -> float:
    """The share of rounded values that are not the nearest."""
    torch.manual_seed(0)
    weight = torch.randn(rows, columns, device=DEVICE).to(torch.float32 if in_4_bits else DTYPE)
    made = quantise(weight)
    held, whole = (made.held, made.dequantised(torch.float32)) if in_4_bits else ((weight,), weight.float())
    scale = weight_scale(held)
    wanted = (whole / scale).clamp(-448, 448).to(E4M3)
    wanted = wanted.t().contiguous() if across else wanted
    found = rounded_weight(held, scale, *wanted.shape, across)
    return float((found.view(torch.uint8) != wanted.view(torch.uint8)).double().mean())


def compiled(with_adapter: bool) -> dict[str, object]:
    """How far a compiled product lies from the plain one, and the widths of what is kept of each row."""
    torch.manual_seed(0)
    torch.compiler.reset()
    sizes = ((1, 37, 64), (4, 64), (48, 4), (48, 64), (1, 37, 48))
    x, a, b, weight, push = (torch.randn(*size, device=DEVICE).to(DTYPE) for size in sizes)
    given = [value.requires_grad_() for value in ((x, a, b) if with_adapter else (x,))]
    held, widths = quantise(weight).held, list[int]()
    scale = weight_scale(held)

    def plain(x: Tensor, *pair: Tensor) -> Tensor:
        return adapted(x, pair[0], pair[1], held, 0.0, scale) if pair else linear(x, held, scale, 48)

    def keep(value: Tensor) -> Tensor:
        if 37 in value.shape:
            widths.append(value.numel() // 37)
        return value

    product = torch.compile(plain, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        y = product(*given)
    other = plain(*given)
    found, wanted = ([out.detach(), *torch.autograd.grad(out, given, push)] for out in (y, other))
    pairs = zip(found, wanted, strict=True)
    return {"kept": sorted(widths), "apart": max(float((one - two).norm() / two.norm()) for one, two in pairs)}


if __name__ == "__main__":
    if not ON_GPU:
        rounding_as_the_gpu_does()
    cases = [
        (in_4_bits, gate, p, 80, 4, not gate, in_place)
        for in_4_bits in (False, True)
        for gate in (False, True)
        for p, in_place in ((0.0, True), (P, True), (0.0, False))
    ]
    cases += [(in_4_bits, False, p, 272, 72, False, True) for in_4_bits, p in ((False, 0.0), (True, P))]
    names = ("4 bits", "gate", "dropout", "width", "rank", "bias", "in place")
    found = {
        ", ".join(f"{name} {value}" for name, value in zip(names, case, strict=True)): errors(*case) for case in cases
    }
    sizes = [(in_4_bits, *size) for in_4_bits in (False, True) for size in ((48, 80), (144, 272), (272, 144))]
    weights = {f"{size}, {across}": weights_apart(*size, across) for size in sizes for across in (False, True)}
    print(json.dumps({"products": found, "weights": weights, "compiled": [compiled(False), compiled(True)]}))
