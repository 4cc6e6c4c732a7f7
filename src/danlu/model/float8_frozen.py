"""Products with a frozen weight in float8, forward and backward, all in e4m3: the weight has one scale, made once, and
each row that it is multiplied with its own.

A weight that is trained has a gradient that sums over the rows, for which all of them need one scale; without it a row
can be rounded in the pass that makes it, and small ones keep their digits. The weight stays as it is held, in 16 or in
4 bits, and is rounded where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op

from danlu.model import nf4
from danlu.model.float8 import E4M3, multiplied, rounded, scale_from, scale_of


def linear(x: Tensor, held: Sequence[Tensor], scale: Tensor, other: int) -> Tensor:
    """x W^T [..., other] in the dtype of x [..., in], bf16 or float32, which alone gets a gradient.

    Args:
        held: W [other, in] alone, or what `nf4.NF4` holds of it; both dimensions are multiples of 16.
        scale: As `weight_scale` gives it.
    """
    y: Tensor = _Product.apply(x, scale, other, *held)
    return y


def weight_scale(held: Sequence[Tensor]) -> Tensor:
    """By which W / scale in e4m3 is multiplied to give W: float32 []."""
    return scale_of(held[0], E4M3) if len(held) == 1 else scale_from(nf4.largest(held), E4M3)


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] in e4m3, and by what each row is multiplied to give x: float32 [..., 1]."""
    factor = scale_from(x.abs().amax(-1, keepdim=True), E4M3)
    return rounded(x, factor, E4M3), factor


def multiplied_rows(x8: Tensor, weight8: Tensor, scale: Tensor, dtype: torch.dtype, fast: bool) -> Tensor:
    """x8 (scale · weight8)^T [..., N] in `dtype`, of x8 [..., K] and weight8 [N, K]; `fast` as `multiplied` has it."""
    y = multiplied(x8.flatten(0, -2).contiguous(), weight8.t(), scale.new_ones(()), scale, dtype, fast)
    return y.view(*x8.shape[:-1], len(weight8))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, other: int, *held: Tensor) -> Tensor:
        ctx.save_for_backward(scale, *held)
        ctx.width = x.shape[-1]
        return _product(x, held, scale, other, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        scale, *held = ctx.saved_tensors
        return _product(d_y, held, scale, ctx.width, True), None, None, *[None] * len(held)


def _product(x: Tensor, held: Sequence[Tensor], scale: Tensor, other: int, across: bool) -> Tensor:
    return _of_rounded(*rounded_rows(x), scale, held, other, across, x.dtype)


@custom_op("danlu::float8_product", mutates_args=())
def _of_rounded(
    x8: Tensor, factor: Tensor, scale: Tensor, held: Sequence[Tensor], other: int, across: bool, dtype: torch.dtype
) -> Tensor:
    # One operation for the compiler, which would else keep the rounded weight from one pass to the other, and of which
    # torch 2.11 compiles a Function without a gradient where that ends in `.to` or in place.
    if x8.is_cuda:
        from danlu.model.float8_cuda import rounded_weight

        weight8 = rounded_weight(held, scale, other, x8.shape[-1], across)
    else:
        size = torch.Size((x8.shape[-1], other) if across else (other, x8.shape[-1]))
        weight = held[0] if len(held) == 1 else nf4.dequantised(held, size, torch.float32)
        weight8 = rounded(weight, scale, E4M3)
        weight8 = weight8.t().contiguous() if across else weight8
    return multiplied_rows(x8, weight8, scale, dtype, fast=not across).mul_(factor)


@_of_rounded.register_fake
def _(
    x8: Tensor, factor: Tensor, scale: Tensor, held: Sequence[Tensor], other: int, across: bool, dtype: torch.dtype
) -> Tensor:
    return x8.new_empty(*x8.shape[:-1], other, dtype=dtype)
