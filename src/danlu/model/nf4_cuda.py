"""Products with a weight in NF4 on a GPU: given back in one pass, multiplied by the library, and not kept.

One operation for the compiler, which would else keep the weight in 16 bits from the forward pass to the backward pass.
Imported where there is a GPU only.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCKS = 32  # of 64 values, a program


@torch.library.custom_op("danlu::nf4_product", mutates_args=())
def nf4_product(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    coarse: Tensor,
    mean: Tensor,
    levels: Tensor,
    code: Tensor,
    other: int,
    across: bool,
) -> Tensor:
    """x W^T [..., other] of x [..., in], or, `across`, x W [..., other] of x [..., out]; W as `nf4.NF4` holds it."""
    weight = given_back((packed, scales, coarse, mean, levels, code), x, other, across)
    return torch.matmul(x, weight if across else weight.t())


@nf4_product.register_fake
def _(x: Tensor, *held: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], held[-2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *held, _, across = inputs
    ctx.save_for_backward(*held)
    ctx.other, ctx.across = x.shape[-1], not across


def _differentiate(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
    return nf4_product(d_y, *ctx.saved_tensors, ctx.other, ctx.across), *[None] * 8


nf4_product.register_autograd(_differentiate, setup_context=_save)


def given_back(held: tuple[Tensor, ...], x: Tensor, other: int, across: bool) -> Tensor:
    """W [other, in], or, `across`, [out, other], of x [..., in] or [..., out], in the format of x."""
    packed, *tables = held
    size = (x.shape[-1], other) if across else (other, x.shape[-1])
    weight = torch.empty(packed.numel() * 2, dtype=x.dtype, device=packed.device)
    blocks = packed.numel() // 32
    _give_back[(triton.cdiv(blocks, _BLOCKS),)](packed, *tables, weight, blocks, wide=_BLOCKS, num_warps=4)
    return weight[: size[0] * size[1]].view(size)  # the last block may be filled up


@triton.jit
def _give_back(packed, scales, coarse, mean, levels, code, weight, blocks, wide: tl.constexpr):  # type: ignore[no-untyped-def]
    block, byte, value = tl.program_id(0) * wide + tl.arange(0, wide), tl.arange(0, 32), tl.arange(0, 64)
    inside = block < blocks
    spot = block.to(tl.int64)
    held = tl.load(packed + spot[:, None] * 32 + byte[None, :], mask=inside[:, None], other=0).to(tl.int32)
    level = tl.load(scales + spot, mask=inside, other=0).to(tl.int32)
    scale = tl.load(code + level) * tl.load(coarse + spot // 256, mask=inside, other=0.0) + tl.load(mean)
    values = tl.interleave(tl.load(levels + (held >> 4)), tl.load(levels + (held & 15)))
    values = (values * scale[:, None]).to(weight.dtype.element_ty)
    tl.store(weight + spot[:, None] * 64 + value[None, :], values, mask=inside[:, None])
