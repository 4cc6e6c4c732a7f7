"""Products on a CPU by oneDNN, which torch asks in half precision only: in float32 it asks MKL, which is slower where
the rows of x are few or the processor is not Intel's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 64  # rows of x up to which torch's own product is the quicker one


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b [..., out] of x [..., in], as F.linear gives it."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else _product(x, weight, bias)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        not x.is_cuda
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > FEW * x.shape[-1]
        and type(weight.data) is Tensor  # no shard
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = dy.reshape(-1, dy.shape[-1])
        dx = _product(dy, weight.t().contiguous(), None) if wants_x else None
        d_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if wants_weight else None
        return dx, d_weight, rows.sum(0) if wants_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
