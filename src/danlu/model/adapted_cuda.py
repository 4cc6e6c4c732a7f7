"""A projection with its adapter on a GPU in as few passes over memory as products of the library allow.

What A and B add is summed where the base's product already lies, forward and backward, in place of a product of its own
and a sum of both. What goes into the projection after a gate is made again in the backward pass by the kernel that
reads the gate anyway. Imported where there is a GPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op

from danlu.model.gate_cuda import swiglu, swiglu_again
from danlu.model.nf4_cuda import given_back


@custom_op("danlu::added_product", mutates_args=())
def added_product(x: Tensor, held: Sequence[Tensor], other: int, across: bool, low: Tensor, up: Tensor) -> Tensor:
    """x W^T + low up [..., other] of x [..., in], or, `across`, x W + low up [..., other] of x [..., out].

    Args:
        held: W [out, in] alone, or what `nf4.NF4` holds of it.
        low, up: [..., R] and [R, other].
    """
    weight = held[0] if len(held) == 1 else given_back(tuple(held), x, other, across)
    y = torch.matmul(x, weight if across else weight.t())
    y.flatten(0, -2).addmm_(low.flatten(0, -2), up)
    return y


@added_product.register_fake
def _(x: Tensor, held: Sequence[Tensor], other: int, across: bool, low: Tensor, up: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], other)


def adapted(x: Tensor, a_RI: Tensor, b_OR: Tensor, held: Sequence[Tensor]) -> Tensor:
    """x W^T + (x A^T) B^T [..., out] of x [..., in]; W, of which `held` is what `added_product` takes, is frozen."""
    y: Tensor = _Adapted.apply(x, a_RI, b_OR, False, *held)
    return y


def adapted_after_gate(gate_up: Tensor, a_RI: Tensor, b_OR: Tensor, held: Sequence[Tensor]) -> Tensor:
    """The same of silu(gate) * up, of gate_up [..., 2 in] contiguous."""
    y: Tensor = _Adapted.apply(gate_up, a_RI, b_OR, True, *held)
    return y


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, a_RI: Tensor, b_OR: Tensor, gated: bool, *held: Tensor) -> Tensor:
        x = swiglu(given) if gated else given
        low = F.linear(x, a_RI)
        ctx.save_for_backward(given, low, a_RI, b_OR, *held)
        ctx.gated = gated
        return added_product(x, held, len(b_OR), False, low, b_OR.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a_RI, b_OR, *held = ctx.saved_tensors
        d_low, d_given = d_y @ b_OR, None
        if ctx.gated or ctx.needs_input_grad[0]:  # an embedding that nothing trains needs none
            d_given = added_product(d_y, held, a_RI.shape[1], True, d_low, a_RI)
        if ctx.gated:
            d_given, x = swiglu_again(x, d_given)
        return d_given, _summed(d_low, x), _summed(d_y, low), None, *[None] * len(held)


def _summed(d: Tensor, x: Tensor) -> Tensor:
    """d^T x, summed over all tokens."""
    return d.flatten(0, -2).t() @ x.flatten(0, -2)
