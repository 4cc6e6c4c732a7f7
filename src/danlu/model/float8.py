"""Products in float8: weights and activations in e4m3, gradients in e5m2 (Micikevicius et al. 2022, arXiv 2209.05433).

A tensor has one float32 scale, made of its largest absolute value each time that it is rounded. With a scale for each
row every tensor would have to be scaled twice, as the weight's gradient sums over the other dimension. A frozen weight
has none: `float8_frozen`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
ALIGNED = 16
"""What each dimension of a product must be a multiple of."""
_SMALLEST = 1e-30  # of a largest value, so that zeros are divided by something


def linear(x: Tensor, weight_NK: Tensor) -> Tensor:
    """x W^T [..., N] in the dtype of x [..., K], bf16 or float32; W and x get their gradients in their own.

    The three products of forward and backward pass are of values rounded to float8. N and K are multiples of 16.
    """
    y: Tensor = _Product.apply(x.flatten(0, -2), weight_NK)
    return y.unflatten(0, x.shape[:-1])


def scale_of(x_MK: Tensor, dtype: torch.dtype) -> Tensor:
    """By which float8 values are multiplied to give x: float32, such that its largest is the largest there is."""
    return scale_from(x_MK.abs().amax(-1).amax(), dtype)  # rows first, which fuses with what makes them


def scale_from(largest: Tensor, dtype: torch.dtype) -> Tensor:
    """The same from the largest absolute value, or of many tensors from theirs."""
    return largest.float().clamp(min=_SMALLEST) / torch.finfo(dtype).max


def rounded(x_MK: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """x / scale in float8."""
    most = torch.finfo(dtype).max
    return (x_MK.float() / scale).clamp(-most, most).to(dtype)


def multiplied(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool) -> Tensor:
    """a [M, K], by rows, times b [K, N], by columns. `fast` sums in fewer bits, which is enough for activations."""
    if a.device.type == "cpu":  # torch's own is a plain loop there, a thousand times slower
        return (a.float() @ b.float() * (a_scale * b_scale)).to(dtype)
    return torch._scaled_mm(a, b, scale_a=a_scale, scale_b=b_scale, out_dtype=dtype, use_fast_accum=fast)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        x_scale, w_scale = scale_of(x_MK, E4M3), scale_of(weight_NK, E4M3)
        x8, w8 = rounded(x_MK, x_scale, E4M3), rounded(weight_NK, w_scale, E4M3)
        ctx.save_for_backward(x8, x_scale, weight_NK, w_scale)
        return multiplied(x8, w8.t(), x_scale, w_scale, x_MK.dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_MN: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x8, x_scale, weight_NK, w_scale = ctx.saved_tensors
        dy_scale = scale_of(dy_MN, E5M2)
        dy8, dx, dw = rounded(dy_MN, dy_scale, E5M2), None, None
        if ctx.needs_input_grad[0]:
            w8 = rounded(weight_NK, w_scale, E4M3)
            dx = multiplied(dy8, _by_columns(w8), dy_scale, w_scale, dy_MN.dtype, fast=False)
        if ctx.needs_input_grad[1]:
            dy8, x8 = _aligned(dy8), _aligned(x8)
            dw = multiplied(dy8.t().contiguous(), _by_columns(x8), dy_scale, x_scale, weight_NK.dtype, fast=False)
        return dx, dw


def _by_columns(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _aligned(x_MK: Tensor) -> Tensor:
    """Rows of zeros below it, up to a multiple of 16."""
    missing = -x_MK.shape[0] % ALIGNED
    return x_MK if missing == 0 else F.pad(x_MK.view(torch.uint8), (0, 0, 0, missing)).view(x_MK.dtype)
