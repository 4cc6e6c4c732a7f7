"""Norm and gate on a CPU, whose derivatives take fewer passes over memory than torch's own.

They are used with and without gradients: a reference or an evaluation has the bits of training.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def suits(x: Tensor) -> bool:
    """Whether this is the place for them: a compiler fuses the plain forms itself."""
    return not x.is_cuda and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, computed in float32 or better."""
    return cast(Tensor, _RMSNorm.apply(x, weight, eps))


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up [..., F] of gate_up [..., 2 F]."""
    return cast(Tensor, _SwiGLU.apply(gate_up))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
        inverse = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        normed, wide_weight = x * inverse, weight.to(inverse.dtype)
        d_normed = d * normed  # times the weight, the gradient along x, which a norm takes off
        along = (d_normed @ (wide_weight / -x.shape[-1]))[..., None]
        dx = (d * wide_weight).addcmul_(normed, along).mul_(inverse).to(x.dtype)
        d_weight = d_normed.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return dx, d_weight, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        (gate, up), d_gate_up = gate_up.chunk(2, dim=-1), torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        opened = F.silu(gate)
        torch.mul(d, opened, out=d_up)
        torch.mul(d, up, out=opened)
        torch.ops.aten.silu_backward.grad_input(opened, gate, grad_input=d_gate)
        return d_gate_up
