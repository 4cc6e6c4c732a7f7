"""Products of a decoding step whose rows have one new token each, in Triton. Imported on a GPU only.

A step of a small batch waits for kernels to start more than for memory, so each does much, fetches its weights while
the one before still runs, and waits for its results on the multiprocessors (`launch`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from danlu.infer.inputs_cuda import Adapted, Taken, add_and_norm, added, low_rank, normed_low_rank, taken_here
from danlu.model.decoder import RMSNorm, gated
from danlu.model.integers import Int8
from danlu.model.integers_cuda import Int4OnGPU
from danlu.model.launch_cuda import launch
from danlu.model.projection import Projection

SKINNY = 16
"""Products of so many rows are made here: at nearly the rate at which memory gives the weights."""

PROGRAMS = 264  # wanted in all: two a multiprocessor
_TILES = {True: (8, 1024), False: (64, 128)}
"""Columns and depth of a weight's tile, for one row and for several: the quickest of some ten on an H200."""
_NORMED_GATE = 32 * 2**20
"""Bytes of a gate that is normed by its own kernel at most: for one row of the 1B shape a step takes 0.96 ms instead of
1.00 so, for the 7B shape, whose gates have 180 MB, 4.25 instead of 4.05 on an H200."""
_RANKS = {True: 256, False: 64}
"""Ranks of a tile of adapters' B at most."""


def normed_product(
    x_BD: Tensor,
    parts_SBD: Tensor | None,
    norm: RMSNorm,
    projection: Projection,
    activation: str | None = None,
    pick_BN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x plus the sum of the parts [B, D], and the projection W of its norm [B, C].

    With an activation, W holds G above U and has no bias: activation(norm G^T) * (norm U^T) [B, C / 2]. `pick_BN` says
    which adapters the rows take, as the decoder is told. x may be overwritten.
    """
    rows = len(x_BD)
    free, taken, here = _adapters_and_place(rows, projection, pick_BN)
    here = here and activation in (None, "silu")
    if here and free and rows == 1 and (activation is None or projection.weight.nbytes <= _NORMED_GATE):
        return _normed_row_product(x_BD, parts_SBD, norm, projection, gated=activation is not None)
    adapted = None
    if taken is None:
        normed_BD = add_and_norm(x_BD, parts_SBD, norm)
    else:
        x_BD, normed_BD, adapted = normed_low_rank(x_BD, parts_SBD, norm, taken, exact=here)
    if here:
        width = len(projection.weight) // (1 if activation is None else 2)
        out = x_BD.new_empty(rows, width)
        deep = _TILES[rows == 1][1]
        _run_product(normed_BD, projection, out, width, deep, gated=activation is not None, adapted=adapted)
        return x_BD, out
    if rows == 1 and free and activation == "silu" and isinstance(projection.quantised, Int4OnGPU | Int8):
        return x_BD, projection.quantised.gated(normed_BD)
    out = _product_elsewhere(normed_BD, projection, pick_BN, adapted)
    return x_BD, out if activation is None else gated(out, activation)


def partial_products(x_BD: Tensor, projection: Projection, pick_BN: Tensor | None = None) -> Tensor:
    """[S, B, C] that add up to x W^T and what adapters add, float32 where there are several; for a projection without
    bias.
    """
    rows = len(x_BD)
    _, taken, here = _adapters_and_place(rows, projection, pick_BN)
    adapted = None if taken is None else low_rank(x_BD, taken, exact=here)
    if not here:
        return _product_elsewhere(x_BD, projection, pick_BN, adapted)[None]
    weight = projection.weight
    columns, deep = _TILES[rows == 1]
    most, depth = max(1, 4 * PROGRAMS * columns // len(weight)), weight.shape[1]
    across = triton.cdiv(len(weight), columns)
    if rows == 1 and depth <= most * deep and across * triton.cdiv(depth, 2 * deep) >= PROGRAMS:
        deep *= 2  # half the parts for the next product to add up: at the 1B shape 2.9% of a step on an H200
    splits = min(most, triton.cdiv(depth, deep))
    out = x_BD.new_empty(splits, rows, len(weight), dtype=torch.float32)
    _run_product(x_BD, projection, out, len(weight), deep, splits, adapted=adapted)
    return out


def _adapters_and_place(rows: int, projection: Projection, pick_BN: Tensor | None) -> tuple[bool, Taken | None, bool]:
    """Whether no adapter is to be added; those that are, by kernels of ours; and whether the product is one of them."""
    free = pick_BN is None or projection.adapters is None
    taken = taken_here(rows, projection, pick_BN)
    return free, taken, rows <= SKINNY and projection.quantised is None and (free or taken is not None)


def _product_elsewhere(x_BD: Tensor, projection: Projection, pick_BN: Tensor | None, adapted: Adapted | None) -> Tensor:
    if adapted is None:
        whole: Tensor = projection(x_BD[:, None], pick_BN)[:, 0]
        return whole
    low_BR, b_OR = adapted
    return projection.product(x_BD, projection.bias).addmm_(low_BR, b_OR.T)


def _normed_row_product(
    x_1D: Tensor, parts_S1D: Tensor | None, norm: RMSNorm, projection: Projection, gated: bool
) -> tuple[Tensor, Tensor]:
    """`normed_product` of one row in one kernel: every program adds and norms for itself, which is sooner done than
    waiting for another kernel, unless there are many programs as for a large gate."""
    width = len(projection.weight) // (2 if gated else 1)
    sum_1D, out = torch.empty_like(x_1D), x_1D.new_empty(1, width)
    parts, count = (x_1D, 0) if parts_S1D is None else (parts_S1D, len(parts_S1D))
    deep = _TILES[True][1] // (2 if gated else 1)  # with fewer registers all of a gate's programs are at work at once
    _run_row_product(x_1D, projection, out, width, deep, 1, gated, norm=norm, parts=parts, count=count, total=sum_1D)
    return sum_1D, out


def _run_product(
    x_BD: Tensor,
    projection: Projection,
    out: Tensor,
    columns: int,
    deep: int,
    splits: int = 1,
    gated: bool = False,
    adapted: Adapted | None = None,
) -> None:
    if len(x_BD) == 1:
        return _run_row_product(x_BD, projection, out, columns, deep, splits, gated, adapted)
    (rows, depth), wide, bias = x_BD.shape, _TILES[False][0], projection.bias
    low, up, ranks, low_deep = _spread(adapted, _RANKS[False])
    _product[(triton.cdiv(columns, wide), splits)](
        x_BD, projection.weight, bias if bias is not None else x_BD, low, up, out, rows, columns, depth,
        triton.cdiv(triton.cdiv(depth, splits), deep) * deep, gated=gated, biased=bias is not None, ranks=ranks,
        low_deep=low_deep, wide=wide, deep=deep, num_warps=4, most=SKINNY, num_stages=4, **launch(x_BD),
    )  # fmt: skip
    return None


def _run_row_product(
    x_1D: Tensor,
    projection: Projection,
    out: Tensor,
    columns: int,
    deep: int,
    splits: int,
    gated: bool,
    adapted: Adapted | None = None,
    norm: RMSNorm | None = None,
    parts: Tensor | None = None,
    count: int = 0,
    total: Tensor | None = None,
) -> None:
    wide, depth, bias = _TILES[True][0], x_1D.shape[1], projection.bias
    low, up, ranks, low_deep = _spread(adapted, _RANKS[True])
    _row_product[(triton.cdiv(columns, wide), splits)](
        x_1D, parts, norm.weight if norm else None, total, projection.weight, bias, low, up, out, columns, depth,
        triton.cdiv(triton.cdiv(depth, splits), deep) * deep, norm.eps if norm else 0.0, normed=norm is not None,
        parts=count, gated=gated, biased=bias is not None, ranks=ranks, low_deep=low_deep, wide=wide, deep=deep,
        num_warps=4, **launch(x_1D),
    )  # fmt: skip


def _spread(adapted: Adapted | None, most: int) -> tuple[Tensor | None, Tensor | None, int, int]:
    """low, B, the ranks of both and how many of them a tile has: 0 without adapters."""
    if adapted is None:
        return None, None, 0, 0
    ranks = adapted[0].shape[1]
    return *adapted, ranks, min(most, max(16, triton.next_power_of_2(ranks)))


@triton.jit
def _given(  # type: ignore[no-untyped-def]
    x, pieces, total, at, depth, normed: tl.constexpr, parts: tl.constexpr
):
    """The input at the places `at`; where it is to be normed, with the parts added, and the sum written once."""
    inside = at < depth
    found = added(x, pieces, depth, at, inside, parts)
    if normed and tl.program_id(0) == 0:
        tl.store(total + at, found, mask=inside)
    return found.to(tl.float32)


@triton.jit
def _low_tile(held, row, there, at, stop, ranks: tl.constexpr, low_deep: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of B or of what is below it: the ranks from `at` to before `stop` of some rows."""
    rank = at + tl.arange(0, low_deep)
    return tl.load(held + row[:, None] * ranks + rank[None, :], mask=there & (rank < stop)[None, :], other=0.0)


@triton.jit
def _row_product(  # type: ignore[no-untyped-def]
    x, pieces, norm, total, weight, bias, low, up, out, columns, depth, share, eps, normed: tl.constexpr,
    parts: tl.constexpr, gated: tl.constexpr, biased: tl.constexpr, ranks: tl.constexpr, low_deep: tl.constexpr,
    wide: tl.constexpr, deep: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """One row: the first tile of weights is on its way before the kernel before this one has ended.

    The norm's factor is one number for the whole row: it multiplies the sums, so that nothing waits for it.
    """
    column, lane = tl.program_id(0) * wide + tl.arange(0, wide), tl.arange(0, deep)
    start = tl.program_id(1) * share
    stop = tl.minimum(start + share, depth)
    inside = (column < columns)[:, None]
    own = weight + column[:, None].to(tl.int64) * depth + lane[None, :]
    upper = own + columns.to(tl.int64) * depth
    if chained:
        gdc_launch_dependents()
    reach = start + lane < stop
    tile = tl.load(own + start, mask=inside & reach[None, :], other=0.0)
    second = tl.load(upper + start, mask=inside & reach[None, :], other=0.0) if gated else tile
    scales = tl.load(norm + lane, mask=reach, other=0.0).to(tl.float32) if normed else 0.0
    shift = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32) if biased else 0.0
    if ranks:
        last = tl.where(tl.program_id(1) == 0, ranks, 0)  # the first split adds what adapters do
        ups = _low_tile(up, column, inside, 0, last, ranks, low_deep)
        upper_ups = _low_tile(up, columns + column, inside, 0, last, ranks, low_deep) if gated else ups
    if chained:
        gdc_wait()
    row = _given(x, pieces, total, start + lane, depth, normed, parts)
    square = row * row
    if normed:  # the whole depth: such a product is not split
        row *= scales
    row = tl.where(reach, row, 0.0)
    sums = tl.sum(tile.to(tl.float32) * row[None, :], 1)
    risen = tl.sum(second.to(tl.float32) * row[None, :], 1) if gated else sums
    if ranks:
        for at_rank in tl.static_range(0, ranks, low_deep):
            rank = at_rank + tl.arange(0, low_deep)
            lows = tl.load(low + rank, mask=rank < last, other=0.0)[None, :]
            if at_rank:
                ups = _low_tile(up, column, inside, at_rank, last, ranks, low_deep)
            sums += tl.sum(ups.to(tl.float32) * lows, 1)
            if gated:
                if at_rank:
                    upper_ups = _low_tile(up, columns + column, inside, at_rank, last, ranks, low_deep)
                risen += tl.sum(upper_ups.to(tl.float32) * lows, 1)
    for at in range(start + deep, stop, deep):
        more = at + lane < stop
        row = _given(x, pieces, total, at + lane, depth, normed, parts)
        if normed:
            square += row * row
            row *= tl.load(norm + at + lane, mask=more, other=0.0).to(tl.float32)
        row = tl.where(more, row, 0.0)
        tile = tl.load(own + at, mask=inside & more[None, :], other=0.0)
        sums += tl.sum(tile.to(tl.float32) * row[None, :], 1)
        if gated:
            second = tl.load(upper + at, mask=inside & more[None, :], other=0.0)
            risen += tl.sum(second.to(tl.float32) * row[None, :], 1)
    if normed:
        factor = tl.rsqrt(tl.sum(square, 0) / depth + eps)
        sums *= factor
        risen *= factor
    if gated:
        sums = sums * tl.sigmoid(sums) * risen
    if biased:
        sums += shift
    tl.store(out + tl.program_id(1) * columns + column, sums.to(out.dtype.element_ty), mask=column < columns)


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x, weight, bias, low, up, out, rows, columns, depth, share, gated: tl.constexpr, biased: tl.constexpr,
    ranks: tl.constexpr, low_deep: tl.constexpr, most: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr,
    chained: tl.constexpr,
):  # fmt: skip
    row, column = tl.arange(0, most), tl.program_id(0) * wide + tl.arange(0, wide)
    split = tl.program_id(1)
    present, inside = (row < rows)[:, None], (column < columns)[:, None]
    start = split * share
    stop = tl.minimum(start + share, depth)
    own = weight + column[:, None].to(tl.int64) * depth
    total = tl.zeros((most, wide), tl.float32)
    upper = tl.zeros((most, wide), tl.float32)
    if chained:
        gdc_launch_dependents()
    if ranks:
        last = tl.where(split == 0, ranks, 0)  # the first split adds what adapters do
        ups = _low_tile(up, column, inside, 0, last, ranks, low_deep)
        upper_ups = _low_tile(up, columns + column, inside, 0, last, ranks, low_deep) if gated else ups
    if chained:
        gdc_wait()
    if ranks:
        lows = _low_tile(low, row, present, 0, last, ranks, low_deep)
    for at in range(start, stop, deep):
        lane = at + tl.arange(0, deep)
        reach = (lane < stop)[None, :]
        piece = tl.load(x + row[:, None] * depth + lane[None, :], mask=present & reach, other=0.0)
        tile = tl.load(own + lane[None, :], mask=inside & reach, other=0.0)
        total = tl.dot(piece, tl.trans(tile), total)
        if gated:
            second = tl.load(own + columns.to(tl.int64) * depth + lane[None, :], mask=inside & reach, other=0.0)
            upper = tl.dot(piece, tl.trans(second), upper)
    if ranks:
        for at_rank in tl.static_range(0, ranks, low_deep):
            if at_rank:
                lows = _low_tile(low, row, present, at_rank, last, ranks, low_deep)
                ups = _low_tile(up, column, inside, at_rank, last, ranks, low_deep)
            total = tl.dot(lows, tl.trans(ups.to(tl.float32)), total)
            if gated:
                if at_rank:
                    upper_ups = _low_tile(up, columns + column, inside, at_rank, last, ranks, low_deep)
                upper = tl.dot(lows, tl.trans(upper_ups.to(tl.float32)), upper)
    if gated:
        total = total * tl.sigmoid(total) * upper
    if biased:
        total += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    spot = out + (split * rows + row[:, None]) * columns + column[None, :]
    tl.store(spot, total.to(out.dtype.element_ty), mask=present & (column < columns)[None, :])
