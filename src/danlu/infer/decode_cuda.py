"""The kernels of a decoding step whose rows have one new token each, in Triton. Imported where there is a GPU only.

A step of a small batch waits for kernels to start more than for memory, so each does much: rotary positions, the write
into the cache and attention are one, the sum with the residual stream and the norm after it another, and on Hopper and
later each is launched while the one before still runs, and waits for its results on the multiprocessors (programmatic
dependent launch).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from danlu.model.decoder import RMSNorm, gated
from danlu.model.integers_cuda import Int4OnGPU
from danlu.model.projection import Projection

SKINNY = 16
"""Products of so many rows are made here: at nearly the rate at which memory gives the weights."""

_TILE, _PROGRAMS, _SPLITS = 64, 264, 32  # keys of a tile; programs wanted in all, two a multiprocessor; splits at most
_TILES = {True: (8, 1024), False: (64, 128)}
"""Columns and depth of a weight's tile, for one row and for several: the quickest of some ten on an H200."""


def attend_next(
    qkv_BC: Tensor,
    cos_BC: Tensor,
    sin_BC: Tensor,
    norms: tuple[RMSNorm, RMSNorm] | None,
    keys_RLKD: Tensor,
    values_RLKD: Tensor,
    positions_B: Tensor,
    tickets_BK: Tensor,
    window: int | None,
) -> Tensor:
    """Attention [B, H D] of one new token a row over the cache, into which its key and value are written.

    Args:
        qkv_BC: for each key-value head its query heads, its key and its value, as `Block.qkv` gives them.
        cos_BC, sin_BC: float32 [B, D / 2], of the new positions.
        norms: of queries and keys, before they are rotated.
        keys_RLKD, values_RLKD: row b of the cache is that of token b; positions before `positions_B` are filled.
        tickets_BK: int32 zeros, and zeros again after the call.
        window: a token sees this many tokens, itself included.
    """
    rows, (length, key_heads, size) = len(qkv_BC), keys_RLKD.shape[1:]
    groups = qkv_BC.shape[1] // (key_heads * size) - 2
    packed = max(16, triton.next_power_of_2(groups))
    splits = max(1, min(_SPLITS, triton.next_power_of_2(_PROGRAMS // (rows * key_heads) // 2 + 1)))
    out = qkv_BC.new_empty(rows, key_heads * groups * size)
    mixed = qkv_BC.new_empty(rows, key_heads, splits, packed, size, dtype=torch.float32)
    sums = qkv_BC.new_empty(rows, key_heads, splits, 2, packed, dtype=torch.float32)
    weights = (norms[0].weight, norms[1].weight) if norms else (qkv_BC, qkv_BC)
    _attend_next[(rows, key_heads, splits)](
        qkv_BC, cos_BC, sin_BC, *weights, keys_RLKD, values_RLKD, positions_B, out, mixed, sums, tickets_BK,
        length, size**-0.5 * 1.4426950408889634, norms[0].eps if norms else 0.0, window or 2**30,
        normed=norms is not None, groups=groups, packed=packed, size=size, tile=_TILE, splits=splits,
        num_warps=4, **_launch(qkv_BC),
    )  # fmt: skip
    return out


def normed_product(
    x_BD: Tensor,
    parts_SBD: Tensor | None,
    norm: RMSNorm,
    projection: Projection,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """x plus the sum of the parts [B, D], and the projection W of its norm [B, C].

    With an activation, W holds G above U and has no bias: activation(norm G^T) * (norm U^T) [B, C / 2]. x may be
    overwritten.
    """
    plain = projection.quantised is None and activation in (None, "silu")
    if len(x_BD) == 1 and plain:
        return _normed_row_product(x_BD, parts_SBD, norm, projection, gated=activation is not None)
    normed_BD = add_and_norm(x_BD, parts_SBD, norm)
    if len(x_BD) == 1 and activation == "silu" and isinstance(projection.quantised, Int4OnGPU):
        return x_BD, projection.quantised.gated(normed_BD)
    if len(x_BD) > SKINNY or not plain:
        out = projection(normed_BD)
        return x_BD, out if activation is None else gated(out, activation)
    width = len(projection.weight) // (1 if activation is None else 2)
    out = x_BD.new_empty(len(x_BD), width)
    _run_product(normed_BD, projection, out, width, gated=activation is not None)
    return x_BD, out


def partial_products(x_BD: Tensor, projection: Projection) -> Tensor:
    """[S, B, C] that add up to x W^T, float32 where there are several; for a projection without bias."""
    weight, rows = projection.weight, len(x_BD)
    if rows > SKINNY or projection.quantised is not None:
        return projection(x_BD)[None]
    columns, deep = _TILES[rows == 1]
    splits = max(1, min(4 * _PROGRAMS * columns // len(weight), triton.cdiv(weight.shape[1], deep)))
    out = x_BD.new_empty(splits, rows, len(weight), dtype=torch.float32)
    _run_product(x_BD, projection, out, len(weight), splits=splits)
    return out


def add_and_norm(x_BD: Tensor, parts_SBD: Tensor | None, norm: RMSNorm) -> Tensor:
    """Adds the sum of the parts to x in place, and gives `norm` of it."""
    normed_BD = torch.empty_like(x_BD)
    rows, width = x_BD.shape
    block = triton.next_power_of_2(width)
    parts, count = (x_BD, 0) if parts_SBD is None else (parts_SBD, len(parts_SBD))
    _add_and_norm[(rows,)](
        x_BD, parts, norm.weight, normed_BD, rows, width, norm.eps, parts=count, block=block,
        num_warps=min(8, max(1, block // 256)), **_launch(x_BD),
    )  # fmt: skip
    return normed_BD


def _normed_row_product(
    x_1D: Tensor, parts_S1D: Tensor | None, norm: RMSNorm, projection: Projection, gated: bool
) -> tuple[Tensor, Tensor]:
    """`normed_product` of one row in one kernel: every program adds and norms for itself, which is sooner done than
    waiting for another kernel."""
    width = len(projection.weight) // (2 if gated else 1)
    sum_1D, out = torch.empty_like(x_1D), x_1D.new_empty(1, width)
    parts, count = (x_1D, 0) if parts_S1D is None else (parts_S1D, len(parts_S1D))
    _run_row_product(x_1D, projection, out, width, 1, gated, norm=norm, parts=parts, count=count, total=sum_1D)
    return sum_1D, out


def _run_product(
    x_BD: Tensor, projection: Projection, out: Tensor, columns: int, splits: int = 1, gated: bool = False
) -> None:
    if len(x_BD) == 1:
        return _run_row_product(x_BD, projection, out, columns, splits, gated)
    (rows, depth), (wide, deep), bias = x_BD.shape, _TILES[False], projection.bias
    _product[(triton.cdiv(columns, wide), splits)](
        x_BD, projection.weight, bias if bias is not None else x_BD, out, rows, columns, depth,
        triton.cdiv(triton.cdiv(depth, splits), deep) * deep, gated=gated, biased=bias is not None, wide=wide,
        deep=deep, num_warps=4, most=SKINNY, num_stages=4, **_launch(x_BD),
    )  # fmt: skip
    return None


def _run_row_product(
    x_1D: Tensor,
    projection: Projection,
    out: Tensor,
    columns: int,
    splits: int,
    gated: bool,
    norm: RMSNorm | None = None,
    parts: Tensor | None = None,
    count: int = 0,
    total: Tensor | None = None,
) -> None:
    depth, (wide, deep), bias = x_1D.shape[1], _TILES[True], projection.bias
    _row_product[(triton.cdiv(columns, wide), splits)](
        x_1D, parts, norm.weight if norm else None, total, projection.weight, bias, out, columns, depth,
        triton.cdiv(triton.cdiv(depth, splits), deep) * deep, norm.eps if norm else 0.0, normed=norm is not None,
        parts=count, gated=gated, biased=bias is not None, wide=wide, deep=deep, num_warps=4, **_launch(x_1D),
    )  # fmt: skip


def _launch(like: Tensor) -> dict[str, bool]:
    chained = like.is_cuda and torch.cuda.get_device_capability(like.device)[0] >= 9
    return {"chained": chained, "launch_pdl": chained} if like.is_cuda else {"chained": chained}


@triton.jit
def _given(  # type: ignore[no-untyped-def]
    x, pieces, total, at, depth, normed: tl.constexpr, parts: tl.constexpr
):
    """The input at the places `at`; where it is to be normed, with the parts added, and the sum written once."""
    inside = at < depth
    found = tl.load(x + at, mask=inside, other=0.0)
    if normed:
        added = found.to(tl.float32)
        for part in tl.static_range(parts):
            added += tl.load(pieces + part * depth + at, mask=inside, other=0.0).to(tl.float32)
        found = added.to(x.dtype.element_ty)
        if tl.program_id(0) == 0:
            tl.store(total + at, found, mask=inside)
    return found.to(tl.float32)


@triton.jit
def _row_product(  # type: ignore[no-untyped-def]
    x, pieces, norm, total, weight, bias, out, columns, depth, share, eps, normed: tl.constexpr, parts: tl.constexpr,
    gated: tl.constexpr, biased: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """One row: the first tile of weights is on its way before the kernel before this one has ended."""
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
    if chained:
        gdc_wait()
    row = _given(x, pieces, total, start + lane, depth, normed, parts)
    factor = 1.0
    if normed:  # the whole depth: such a product is not split
        square = tl.sum(row * row, 0)
        for at in range(deep, depth, deep):
            other = _given(x, pieces, total, at + lane, depth, normed, parts)
            square += tl.sum(other * other, 0)
        factor = tl.rsqrt(square / depth + eps)
        row = (row * (factor * scales)).to(x.dtype.element_ty).to(tl.float32)
    row = tl.where(reach, row, 0.0)
    sums = tl.sum(tile.to(tl.float32) * row[None, :], 1)
    risen = tl.sum(second.to(tl.float32) * row[None, :], 1) if gated else sums
    for at in range(start + deep, stop, deep):
        more = at + lane < stop
        row = _given(x, pieces, total, at + lane, depth, normed, parts)
        if normed:
            scales = tl.load(norm + at + lane, mask=more, other=0.0).to(tl.float32)
            row = (row * (factor * scales)).to(x.dtype.element_ty).to(tl.float32)
        row = tl.where(more, row, 0.0)
        tile = tl.load(own + at, mask=inside & more[None, :], other=0.0)
        sums += tl.sum(tile.to(tl.float32) * row[None, :], 1)
        if gated:
            second = tl.load(upper + at, mask=inside & more[None, :], other=0.0)
            risen += tl.sum(second.to(tl.float32) * row[None, :], 1)
    if gated:
        sums = sums * tl.sigmoid(sums) * risen
    if biased:
        sums += shift
    tl.store(out + tl.program_id(1) * columns + column, sums.to(out.dtype.element_ty), mask=column < columns)


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x, weight, bias, out, rows, columns, depth, share, gated: tl.constexpr, biased: tl.constexpr, most: tl.constexpr,
    wide: tl.constexpr, deep: tl.constexpr, chained: tl.constexpr,
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
        gdc_wait()
    for at in range(start, stop, deep):
        lane = at + tl.arange(0, deep)
        reach = (lane < stop)[None, :]
        piece = tl.load(x + row[:, None] * depth + lane[None, :], mask=present & reach, other=0.0)
        tile = tl.load(own + lane[None, :], mask=inside & reach, other=0.0)
        total = tl.dot(piece, tl.trans(tile), total)
        if gated:
            second = tl.load(own + columns.to(tl.int64) * depth + lane[None, :], mask=inside & reach, other=0.0)
            upper = tl.dot(piece, tl.trans(second), upper)
    if gated:
        total = total * tl.sigmoid(total) * upper
    if biased:
        total += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    spot = out + (split * rows + row[:, None]) * columns + column[None, :]
    tl.store(spot, total.to(out.dtype.element_ty), mask=present & (column < columns)[None, :])


@triton.jit
def _turned(first, second, weight, cos, sin, eps, half: tl.constexpr, normed: tl.constexpr):  # type: ignore[no-untyped-def]
    """Halves [M, D / 2] of heads after their norm and rotation, in the format they came in."""
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    if normed:
        lane = tl.arange(0, half)
        square = tl.sum(first * first + second * second, 1) / (2 * half)
        factor = tl.rsqrt(square + eps)[:, None]
        first = (first * factor * tl.load(weight + lane).to(tl.float32)).to(dtype).to(tl.float32)
        second = (second * factor * tl.load(weight + half + lane).to(tl.float32)).to(dtype).to(tl.float32)
    return (first * cos - second * sin).to(dtype), (second * cos + first * sin).to(dtype)


@triton.jit
def _attend_next(  # type: ignore[no-untyped-def]
    qkv, cos, sin, q_weight, k_weight, keys, values, positions, out, mixed, sums, tickets, length, scale, eps, window,
    normed: tl.constexpr, groups: tl.constexpr, packed: tl.constexpr, size: tl.constexpr, tile: tl.constexpr,
    splits: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = size // 2
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(1)
    place = tl.load(positions + row).to(tl.int32)
    member, lane, dims = tl.arange(0, packed), tl.arange(0, half), tl.arange(0, size)
    real = (member < groups)[:, None]
    turn_cos, turn_sin = tl.load(cos + row * half + lane)[None, :], tl.load(sin + row * half + lane)[None, :]
    low = tl.maximum(place + 1 - window, 0)
    share = tl.cdiv(tl.cdiv(place + 1 - low, splits), tile) * tile
    start = low + split * share
    stop = tl.minimum(start + share, place + 1)
    keys += (row.to(tl.int64) * length * heads + head) * size
    values += (row.to(tl.int64) * length * heads + head) * size
    key = start + tl.arange(0, tile)
    old = (key < tl.minimum(stop, place))[:, None]
    held = key[:, None] * heads * size
    tile_first = tl.load(keys + held + lane[None, :], mask=old, other=0.0)
    tile_second = tl.load(keys + held + half + lane[None, :], mask=old, other=0.0)
    tile_values = tl.load(values + held + dims[None, :], mask=old, other=0.0)
    if chained:
        gdc_launch_dependents()
        gdc_wait()
    own = qkv + (row * heads + head) * (groups + 2) * size
    query = own + member[:, None] * size + lane[None, :]
    first, second = tl.load(query, mask=real, other=0.0), tl.load(query + half, mask=real, other=0.0)
    own += groups * size
    k_first, k_second = tl.load(own + lane)[None, :], tl.load(own + half + lane)[None, :]
    value = tl.load(own + size + dims)[None, :]
    q_first, q_second = _turned(first, second, q_weight, turn_cos, turn_sin, eps, half, normed)
    k_first, k_second = _turned(k_first, k_second, k_weight, turn_cos, turn_sin, eps, half, normed)

    greatest = tl.full((packed,), -1e30, tl.float32)
    total = tl.zeros((packed,), tl.float32)
    gathered = tl.zeros((packed, size), tl.float32)
    for at in range(start, stop, tile):
        new = (key == place)[:, None]
        tile_first, tile_second = tl.where(new, k_first, tile_first), tl.where(new, k_second, tile_second)
        scores = tl.dot(q_first, tl.trans(tile_first)) + tl.dot(q_second, tl.trans(tile_second))
        scores = tl.where((key < stop)[None, :], scores * scale, -float("inf"))
        higher = tl.maximum(greatest, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(greatest - higher)
        total = total * shrink + tl.sum(shares, 1)
        seen = tl.where(new, value, tile_values)
        gathered = tl.dot(shares.to(seen.dtype), seen, gathered * shrink[:, None])
        greatest = higher
        key = at + tile + tl.arange(0, tile)
        old = (key < tl.minimum(stop, place))[:, None]
        held = key[:, None] * heads * size
        tile_first = tl.load(keys + held + lane[None, :], mask=old, other=0.0)
        tile_second = tl.load(keys + held + half + lane[None, :], mask=old, other=0.0)
        tile_values = tl.load(values + held + dims[None, :], mask=old, other=0.0)
    if (start <= place) & (place < stop):
        fresh = place * heads * size
        tl.store(keys + fresh + lane[None, :], k_first)
        tl.store(keys + fresh + half + lane[None, :], k_second)
        tl.store(values + fresh + dims[None, :], value)
    answer = out + ((row * heads + head) * groups + member[:, None]) * size + dims[None, :]
    pieces = tl.cdiv(place + 1 - low, share)
    if pieces == 1:
        if split == 0:
            tl.store(answer, (gathered / total[:, None]).to(out.dtype.element_ty), mask=real)
    elif split < pieces:
        own_mixed = mixed + (row * heads + head) * splits * packed * size + member[:, None] * size + dims[None, :]
        own_sums = sums + (row * heads + head) * splits * 2 * packed + member
        tl.store(own_mixed + split * packed * size, gathered)
        tl.store(own_sums + split * 2 * packed, greatest)
        tl.store(own_sums + split * 2 * packed + packed, total)
        tl.debug_barrier()  # all threads have written before one of them takes the ticket
        ticket = tickets + row * heads + head
        if tl.atomic_add(ticket, 1) == pieces - 1:  # the last to come puts the pieces together
            tl.store(ticket, 0)
            greatest = tl.full((packed,), -1e30, tl.float32)
            total = tl.zeros((packed,), tl.float32)
            gathered = tl.zeros((packed, size), tl.float32)
            for other in range(pieces):
                peak = tl.load(own_sums + other * 2 * packed, cache_modifier=".cg")
                higher = tl.maximum(greatest, peak)
                shrink, factor = tl.exp2(greatest - higher), tl.exp2(peak - higher)
                total = total * shrink + factor * tl.load(own_sums + (other * 2 + 1) * packed, cache_modifier=".cg")
                piece = tl.load(own_mixed + other * packed * size, cache_modifier=".cg")
                gathered = gathered * shrink[:, None] + piece * factor[:, None]
                greatest = higher
            tl.store(answer, (gathered / total[:, None]).to(out.dtype.element_ty), mask=real)


@triton.jit
def _add_and_norm(  # type: ignore[no-untyped-def]
    x, y, weight, normed, rows, width, eps, parts: tl.constexpr, block: tl.constexpr, chained: tl.constexpr
):
    row, lane = tl.program_id(0), tl.arange(0, block)
    inside = lane < width
    scales = tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
    if chained:
        gdc_launch_dependents()
        gdc_wait()
    x += row * width + lane
    y += row * width + lane
    added = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(parts):
        added += tl.load(y + part * rows * width, mask=inside, other=0.0).to(tl.float32)
    stored = added.to(x.dtype.element_ty)
    tl.store(x, stored, mask=inside)
    wide = stored.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / width + eps) * scales
    tl.store(normed + row * width + lane, wide.to(normed.dtype.element_ty), mask=inside)
