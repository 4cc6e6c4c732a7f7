"""Dropout on a GPU that keeps no mask: whether a value is kept is a hash of its place, made again where it is needed.

A hash of seven instructions a value and a comparison, where Philox takes more time than the value's way through memory.
What an adapter's product reads is masked on its way into registers, so that dropout adds no pass over x to the forward
pass: by disassembly for an H200 14.4 instructions a value in all up to rank 64, 17.7 at 192, of 14 that it issues while
two bytes come from memory. Imported where there is a GPU only.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

_BLOCK = 1024
_TILE = {"rows": 64, "deep": 64, "num_warps": 4, "num_stages": 3}
_RANKS = 256  # at a time, which takes all 255 registers and spills none: above it x is read once more for each


def new_seed(x: Tensor) -> Tensor:
    """Int32 [2] on the device of x; torch's generator of that device decides, as it does of its own dropout."""
    return torch.randint(1 << 31, (2,), dtype=torch.int32, device=x.device)


def drop(x: Tensor, seed: Tensor, p: float) -> Tensor:
    """x / (1 - p) where it is kept, else 0; p is rounded down to 1 / 2^32.

    Args:
        x: [..., width] in any float format; of rows in this order and columns up to `width` the mask is one of `seed`.
        seed: Int32 [2], as `new_seed` draws it.
    """
    x = x.contiguous()
    dropped, width = torch.empty_like(x), x.shape[-1]
    grid = (x.numel() // width, triton.cdiv(width, _BLOCK))
    _drop[grid](x, dropped, seed, width, **constants(p, width), block=_BLOCK)
    return dropped


@custom_op("danlu::dropped_product", mutates_args=())
def dropped_product(x: Tensor, other: Tensor, seed: Tensor, p: float, across: bool) -> Tensor:
    """drop(x) other^T [..., R] of other [R, in], or, `across`, other^T drop(x) [R, in] of other [..., R].

    One operation for the compiler, which would else see drop(x) twice and keep it from one pass to the other.
    """
    if across:
        return other.flatten(0, -2).t() @ drop(x, seed, p).flatten(0, -2)
    x, other, (rank, width) = x.contiguous(), other.contiguous(), other.shape
    low, rows = x.new_empty(*x.shape[:-1], rank), x.numel() // width
    ranks = min(_RANKS, max(16, triton.next_power_of_2(rank)))
    grid = (triton.cdiv(rows, _TILE["rows"]), triton.cdiv(rank, ranks))
    _product[grid](x, other, low, seed, rows, width, rank, **constants(p, width), ranks=ranks, **_TILE)
    return low


@dropped_product.register_fake
def _(x: Tensor, other: Tensor, seed: Tensor, p: float, across: bool) -> Tensor:
    return x.new_empty(other.shape[-1], x.shape[-1]) if across else x.new_empty(*x.shape[:-1], other.shape[0])


def constants(p: float, width: int) -> dict[str, Any]:
    """What kernels that mask rows of `width` values take: `least` is 0 where nothing is dropped."""
    return {"span": triton.next_power_of_2(width), "least": int(p * 2**32), "scale": 1 / (1 - p)}


@triton.jit
def begun(seed, row, span: tl.constexpr):  # type: ignore[no-untyped-def]
    """What `kept` takes of these rows: the lower half of a row's place, and what the upper half and the seed make."""
    place = row.to(tl.int64) * span
    lower = place.to(tl.uint32) + tl.load(seed).to(tl.uint32)
    return lower, (place >> 32).to(tl.uint32) * 0x9E3779B9 + tl.load(seed + 1).to(tl.uint32)


@triton.jit
def kept(lower, upper, column, least: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which values of these columns are kept.

    The hash is Wellons' lowbias32 (nullprogram.com/blog/2018/07/31), no value twice in 2^32 places, with half of
    the seed between its two products and without its last step, which changes none of the bits that decide.
    """
    hashed = lower + column.to(tl.uint32)
    hashed = (hashed ^ (hashed >> 16)) * 0x7FEB352D
    return (hashed ^ (hashed >> 15) ^ upper) * 0x846CA68B >= least


@triton.jit
def _drop(  # type: ignore[no-untyped-def]
    x, out, seed, width, span: tl.constexpr, least: tl.constexpr, scale: tl.constexpr, block: tl.constexpr
):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    value = tl.load(x + row * width + column, mask=inside).to(tl.float32) * scale
    lower, upper = begun(seed, row, span)
    value = tl.where(kept(lower, upper, column, least), value, 0.0)
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x, other, low, seed, height, width, rank, span: tl.constexpr, least: tl.constexpr, scale: tl.constexpr,
    ranks: tl.constexpr, rows: tl.constexpr, deep: tl.constexpr,
):  # fmt: skip
    row, lane = tl.program_id(0) * rows + tl.arange(0, rows), tl.program_id(1) * ranks + tl.arange(0, ranks)
    column = tl.arange(0, deep)
    inside, used = (row < height)[:, None], lane < rank
    spot = row[:, None].to(tl.int64)
    lower, upper = begun(seed, spot, span)
    sums = tl.zeros((rows, ranks), tl.float32)
    for at in range(0, width, deep):
        reach = at + column < width
        left = tl.load(x + spot * width + (at + column)[None, :], mask=inside & reach[None, :], other=0.0)
        left = tl.where(kept(lower, upper, (at + column)[None, :], least), left, 0.0)
        right = other + lane[None, :] * width + (at + column)[:, None]
        right = tl.load(right, mask=reach[:, None] & used[None, :], other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
    tl.store(low + spot * rank + lane[None, :], (sums * scale).to(low.dtype.element_ty), mask=inside & used[None, :])
