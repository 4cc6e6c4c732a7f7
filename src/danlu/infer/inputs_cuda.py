"""What the products of a decoding step take in, in Triton: sums, their norms, and what the A's of adapters make of
them. Imported on a GPU only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from danlu.model.adapters import Several
from danlu.model.decoder import RMSNorm
from danlu.model.launch_cuda import launch
from danlu.model.projection import Projection

_ROWS = 64
"""Up to so many the A's of adapters are multiplied by here: each row by those it takes, so in proportion to rows."""
_TILE = 8192  # elements of A that a program holds

Taken = tuple[Several, Tensor]
"""Adapters, and which of them each row takes, [B, N] as `Several` has it."""

Adapted = tuple[Tensor, Tensor]
"""What adapters add to a product, as low B^T: low [B, R] and B [out, R], R all ranks of all of them."""


def add_and_norm(x_BD: Tensor, parts_SBD: Tensor | None, norm: RMSNorm) -> Tensor:
    """Adds the sum of the parts to x in place, and gives `norm` of it."""
    normed_BD = torch.empty_like(x_BD)
    rows, width = x_BD.shape
    block = triton.next_power_of_2(width)
    _add_and_norm[(rows,)](
        x_BD, parts_SBD, norm.weight, normed_BD, rows, width, norm.eps,
        parts=0 if parts_SBD is None else len(parts_SBD), block=block, num_warps=min(8, max(1, block // 256)),
        **launch(x_BD),
    )  # fmt: skip
    return normed_BD


def taken_here(rows: int, projection: Projection, pick_BN: Tensor | None) -> Taken | None:
    """The projection's adapters; None where no row takes any, or where the projection is to add them by itself."""
    adapters = projection.adapters
    if pick_BN is None or not isinstance(adapters, Several) or adapters.more is not None or rows > _ROWS:
        return None
    return adapters, pick_BN


def low_rank(x_BD: Tensor, taken: Taken, exact: bool) -> Adapted:
    """What the adapters add for x: low is x A^T for the one that a row takes, and 0 for all others; float32 if it is
    to be exact, else in the format of x.
    """
    return _run_low_rank(x_BD, taken, exact)


def normed_low_rank(
    x_BD: Tensor, parts_SBD: Tensor | None, norm: RMSNorm, taken: Taken, exact: bool
) -> tuple[Tensor, Tensor, Adapted]:
    """x plus the sum of the parts, its norm, and `low_rank` of that, by one kernel."""
    total_BD, normed_BD = torch.empty_like(x_BD), torch.empty_like(x_BD)
    return total_BD, normed_BD, _run_low_rank(x_BD, taken, exact, norm, parts_SBD, total_BD, normed_BD)


def _run_low_rank(
    x_BD: Tensor,
    taken: Taken,
    exact: bool,
    norm: RMSNorm | None = None,
    parts: Tensor | None = None,
    total: Tensor | None = None,
    normed: Tensor | None = None,
) -> Adapted:
    adapters, pick_BN = taken
    (rows, depth), ranks = x_BD.shape, len(adapters.a)
    deep = triton.next_power_of_2(depth)
    wide = 1 if rows == 1 else 2 if norm is None else 8  # rows of A a program: each makes the norm anew
    wide = max(1, min(wide, _TILE // deep))
    if norm is None:  # a norm takes the whole row at once
        deep = min(deep, _TILE // wide)
    low_BR = x_BD.new_empty(rows, ranks, dtype=torch.float32 if exact else x_BD.dtype)
    _low_rank[(triton.cdiv(ranks, wide), rows)](
        x_BD, parts, norm.weight if norm else None, total, normed, adapters.a, adapters.owner, pick_BN, low_BR,
        rows, depth, ranks, pick_BN.shape[1], norm.eps if norm else 0.0, norms=norm is not None,
        parts=0 if parts is None else len(parts), wide=wide, deep=deep,
        num_warps=min(8, max(1, wide * deep // 256)), **launch(x_BD),
    )  # fmt: skip
    return low_BR, adapters.b


@triton.jit
def added(x, pieces, step, at, inside, parts: tl.constexpr):  # type: ignore[no-untyped-def]
    """x with its parts, which lie `step` apart, at the places `at`; in the format of x."""
    found = tl.load(x + at, mask=inside, other=0.0)
    if parts:
        total = found.to(tl.float32)
        for part in tl.static_range(parts):
            total += tl.load(pieces + part * step + at, mask=inside, other=0.0).to(tl.float32)
        found = total.to(x.dtype.element_ty)
    return found


@triton.jit
def _add_and_norm(  # type: ignore[no-untyped-def]
    x, pieces, weight, normed, rows, width, eps, parts: tl.constexpr, block: tl.constexpr, chained: tl.constexpr
):
    row, lane = tl.program_id(0), tl.arange(0, block)
    inside = lane < width
    scales = tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
    if chained:
        gdc_launch_dependents()
        gdc_wait()
    at = row * width + lane
    stored = added(x, pieces, rows * width, at, inside, parts)
    tl.store(x + at, stored, mask=inside)
    wide = stored.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / width + eps) * scales
    tl.store(normed + at, wide.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _low_rank(  # type: ignore[no-untyped-def]
    x, pieces, norm, total, normed, down, owner, picks, low, rows, depth, ranks, adapters, eps, norms: tl.constexpr,
    parts: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """A row by some rows of A; those of adapters that it does not take are not read.

    Who takes what was written before the step began: it need not wait for the kernel before.
    """
    rank, lane = tl.program_id(0) * wide + tl.arange(0, wide), tl.arange(0, deep)
    row, inside, real = tl.program_id(1), lane < depth, rank < ranks
    if chained:
        gdc_launch_dependents()
    owners = tl.load(owner + rank, mask=real, other=0)
    factor = tl.load(picks + row * adapters + owners, mask=real, other=0.0).to(tl.float32)
    taken = (factor != 0.0)[:, None]
    own = down + rank[:, None] * depth + lane[None, :]
    tile = tl.load(own, mask=taken & inside[None, :], other=0.0)
    scales = tl.load(norm + lane, mask=inside, other=0.0).to(tl.float32) if norms else 0.0
    if chained:
        gdc_wait()
    first = tl.program_id(0) == 0  # of those that see the row: writes its sum and its norm
    stop = tl.where(first, depth, tl.max(tl.where(factor != 0.0, depth, 0), 0))  # 0 where there is nothing to do
    start = row * depth
    found = added(x, pieces, rows * depth, start + lane, lane < stop, parts)
    if norms:
        full = found.to(tl.float32)
        full *= tl.rsqrt(tl.sum(full * full, 0) / depth + eps) * scales
        if first:
            tl.store(total + start + lane, found, mask=inside)
            tl.store(normed + start + lane, full.to(normed.dtype.element_ty), mask=inside)
        found = full.to(x.dtype.element_ty)
    sums = tl.sum(tile.to(tl.float32) * found.to(tl.float32)[None, :], 1)
    for at in range(deep, depth, deep):
        more = at + lane < stop
        tile = tl.load(own + at, mask=taken & more[None, :], other=0.0)
        found = tl.load(x + start + at + lane, mask=more, other=0.0)
        sums += tl.sum(tile.to(tl.float32) * found.to(tl.float32)[None, :], 1)
    tl.store(low + row * ranks + rank, (sums * factor).to(low.dtype.element_ty), mask=real)
