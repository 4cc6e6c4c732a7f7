"""A projection with its adapter on a GPU in as few passes over memory as products of the library allow.

What A and B add is summed where the base's product already lies, forward and backward, in place of a product of its own
and a sum of both; by a kernel of our own where so few values are summed over that the library's reaches half of the
memory's rate. What goes into the projection after a gate is made again in the backward pass by the kernel that
reads the gate anyway, and so is what dropout keeps, by every kernel that needs it. Imported where there is a GPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op

from danlu.model.dropout_cuda import begun, constants, dropped_product, kept, new_seed
from danlu.model.float8_cuda import rounded_weight
from danlu.model.float8_frozen import multiplied_rows, rounded_rows
from danlu.model.gate_cuda import swiglu, swiglu_again
from danlu.model.nf4_cuda import given_back

_TILE = {"rows": 64, "columns": 128, "num_warps": 4, "num_stages": 2}
_DEEP = 64
"""Of the rank at a time; up to it, and for more than 128 columns for each of the rank, the kernel is the quicker one:
on an H200 43 instead of 55 us for 8,192 x 4,096 and rank 32, 341 instead of 415 for 11,264 x 22,016 and rank 128, but
94 instead of 81 for 11,264 x 4,096 and rank 192."""


@custom_op("danlu::added_product", mutates_args=())
def added_product(
    x: Tensor, held: Sequence[Tensor], other: int, across: bool, low: Tensor, up: Tensor, seed: Tensor | None, p: float
) -> Tensor:
    """x W^T + low up [..., other] of x [..., in], or, `across`, x W + low up [..., other] of x [..., out].

    Args:
        held: W [out, in] alone, or what `nf4.NF4` holds of it.
        low, up: [..., R] and [R, other].
        seed, p: of the dropout of low up; None and 0: it has none.
    """
    weight = held[0] if len(held) == 1 else given_back(tuple(held), x, other, across)
    y = torch.matmul(x, weight if across else weight.t())
    add_product(y.flatten(0, -2), low.flatten(0, -2), up, seed, p)
    return y


@added_product.register_fake
def _(x: Tensor, held: Sequence[Tensor], other: int, *more: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], other)


@custom_op("danlu::added_product_of_rounded", mutates_args=())
def added_product_of_rounded(
    x8: Tensor, factor: Tensor, scale: Tensor, held: Sequence[Tensor], other: int, across: bool, low: Tensor,
    up: Tensor, seed: Tensor | None, p: float,
) -> Tensor:  # fmt: skip
    """The same in the dtype of low, of x that `float8_frozen.rounded_rows` made x8 and factor of, with W rounded by
    `scale`.
    """
    weight8 = rounded_weight(held, scale, other, x8.shape[-1], across)
    y = multiplied_rows(x8, weight8, scale, low.dtype, fast=not across)
    add_product(y.flatten(0, -2), low.flatten(0, -2), up, seed, p, factor.contiguous())
    return y


@added_product_of_rounded.register_fake
def _(x8: Tensor, factor: Tensor, scale: Tensor, held: Sequence[Tensor], other: int, across: bool, low: Tensor,
    *more: Any) -> Tensor:  # fmt: skip
    return low.new_empty(*x8.shape[:-1], other)


def add_product(
    y_MN: Tensor,
    low_MR: Tensor,
    up_RN: Tensor,
    seed: Tensor | None = None,
    p: float = 0.0,
    factor: Tensor | None = None,
) -> None:
    """Adds low up, or, with a seed, `dropout_cuda.drop` of it, to y, which is contiguous; sums in float32, rounded
    once. With float32 `factor`, one a row and contiguous, it is y times that which is added to.
    """
    (rows, columns), rank = y_MN.shape, low_MR.shape[1]
    if seed is None and factor is None and rank > _DEEP and columns <= 128 * rank:
        y_MN.addmm_(low_MR, up_RN)
        return
    deep = min(_DEEP, max(16, triton.next_power_of_2(rank)))
    grid = (triton.cdiv(columns, _TILE["columns"]), triton.cdiv(rows, _TILE["rows"]))
    _add_product[grid](
        y_MN, low_MR, up_RN, y_MN if seed is None else seed, y_MN if factor is None else factor, rows, columns, rank,
        *low_MR.stride(), *up_RN.stride(), **constants(p, columns), scaled=factor is not None, deep=deep, **_TILE,
    )  # fmt: skip


def adapted(
    x: Tensor, a_RI: Tensor, b_OR: Tensor, held: Sequence[Tensor], p: float = 0.0, scale: Tensor | None = None
) -> Tensor:
    """x W^T + (drop(x) A^T) B^T [..., out] of x [..., in]; W, of which `held` is what `added_product` takes, is frozen.

    drop(x), x itself where p is 0, is what `dropout_cuda.drop` says, with a seed drawn anew. With `scale`, which is
    `float8_frozen.weight_scale`, the products with W are of values rounded to float8.
    """
    y: Tensor = _Adapted.apply(x, a_RI, b_OR, new_seed(x) if p else None, p, scale, False, *held)
    return y


def adapted_after_gate(
    gate_up: Tensor, a_RI: Tensor, b_OR: Tensor, held: Sequence[Tensor], p: float = 0.0, scale: Tensor | None = None
) -> Tensor:
    """The same of silu(gate) * up, of gate_up [..., 2 in] contiguous."""
    y: Tensor = _Adapted.apply(gate_up, a_RI, b_OR, new_seed(gate_up) if p else None, p, scale, True, *held)
    return y


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, given: Tensor, a_RI: Tensor, b_OR: Tensor, seed: Tensor | None, p: float, scale: Tensor | None,
        gated: bool, *held: Tensor,
    ) -> Tensor:  # fmt: skip
        x = swiglu(given) if gated else given
        low = F.linear(x, a_RI) if seed is None else dropped_product(x, a_RI, seed, p, False)
        ctx.save_for_backward(given, low, a_RI, b_OR, seed, scale, *held)
        ctx.p, ctx.gated = p, gated
        return _added(x, scale, held, len(b_OR), False, low, b_OR.t(), None, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a_RI, b_OR, seed, scale, *held = ctx.saved_tensors
        d_low, d_given = d_y @ b_OR, None
        if ctx.gated or ctx.needs_input_grad[0]:  # an embedding that nothing trains needs none
            d_given = _added(d_y, scale, held, a_RI.shape[1], True, d_low, a_RI, seed, ctx.p)
        if ctx.gated:
            d_given, x = swiglu_again(x, d_given, seed, ctx.p)
        whole = ctx.gated or seed is None
        d_a = _summed(d_low, x) if whole else dropped_product(x, d_low, seed, ctx.p, True)
        return d_given, d_a, _summed(d_y, low), *[None] * (4 + len(held))


def _added(x: Tensor, scale: Tensor | None, *more: Any) -> Tensor:
    if scale is None:
        return added_product(x, *more)
    return added_product_of_rounded(*rounded_rows(x), scale, *more)  # rounded by what the compiler makes x with


def _summed(d: Tensor, x: Tensor) -> Tensor:
    """d^T x, summed over all tokens."""
    return d.flatten(0, -2).t() @ x.flatten(0, -2)


@triton.jit
def _add_product(  # type: ignore[no-untyped-def]
    y, low, up, seed, factor, height, width, rank, low_row, low_column, up_row, up_column, span: tl.constexpr,
    least: tl.constexpr, scale: tl.constexpr, scaled: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
    deep: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(1) * rows + tl.arange(0, rows), tl.program_id(0) * columns + tl.arange(0, columns)
    lane = tl.arange(0, deep)
    inside, across = (row < height)[:, None], (column < width)[None, :]
    spot = y + row[:, None].to(tl.int64) * width + column[None, :]
    held = tl.load(spot, mask=inside & across, other=0.0)
    added = tl.zeros((rows, columns), tl.float32)
    for at in range(0, rank, deep):
        reach = at + lane < rank
        left = low + row[:, None].to(tl.int64) * low_row + (at + lane)[None, :] * low_column
        right = up + (at + lane)[:, None].to(tl.int64) * up_row + column[None, :] * up_column
        left = tl.load(left, mask=inside & reach[None, :], other=0.0)
        right = tl.load(right, mask=reach[:, None] & across, other=0.0)
        added = tl.dot(left, right, added, input_precision="ieee")
    if least:
        lower, upper = begun(seed, row[:, None], span)
        added = tl.where(kept(lower, upper, column[None, :], least), added * scale, 0.0)
    held = held.to(tl.float32)
    if scaled:
        held *= tl.load(factor + row, mask=row < height, other=0.0)[:, None]
    tl.store(spot, (held + added).to(y.dtype.element_ty), mask=inside & across)
