"""A product that adds its weight's gradient to a float32 sum by itself.

A micro-batch's gradient otherwise is rounded and written, read again, and added: 12 bytes a weight and micro-batch
instead of 8, most of which the product hides, and a rounding less.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None, sum_NK: Tensor) -> Tensor:
    """x W^T + b [..., N] of x [..., K]. The gradient of W is added to the sum, and is not W's `grad`."""
    y: Tensor = _Product.apply(x, weight_NK, bias_N, sum_NK)
    return y


@custom_op("danlu::add_gradient", mutates_args=("sum_NK",))
def add_gradient(sum_NK: Tensor, dy_MN: Tensor, x_MK: Tensor) -> None:
    """Adds dy^T x to a sum of its dtype or of a wider one."""
    if sum_NK.dtype == x_MK.dtype:
        sum_NK.addmm_(dy_MN.t(), x_MK)
    elif sum_NK.is_cuda:
        torch.addmm(sum_NK, dy_MN.t(), x_MK, out_dtype=sum_NK.dtype, out=sum_NK)
    else:
        sum_NK.add_(dy_MN.t() @ x_MK)


@add_gradient.register_fake
def _(sum_NK: Tensor, dy_MN: Tensor, x_MK: Tensor) -> None:
    return None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor, bias_N: Tensor | None, sum_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_NK)
        ctx.sum_NK = sum_NK  # not saved: a sum that another product has been added to is the same sum
        return F.linear(x, weight_NK, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        x, weight_NK = ctx.saved_tensors
        wants_x, _, wants_bias, _ = ctx.needs_input_grad
        rows_MN = dy.flatten(0, -2)
        add_gradient(ctx.sum_NK, rows_MN, x.flatten(0, -2))
        return dy @ weight_NK if wants_x else None, None, rows_MN.sum(0) if wants_bias else None, None
