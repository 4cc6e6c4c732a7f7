"""Attention of a decoding step whose rows have one new token each, in Triton. Imported where there is a GPU only.

Rotary positions, norms of queries and keys, the write into the cache and attention are one kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from danlu.infer.products_cuda import PROGRAMS
from danlu.model.decoder import RMSNorm
from danlu.model.launch_cuda import launch

_SPLITS = 32  # of a row's keys at most
_TILE = (64, 8192)  # keys of a tile, and their elements, at most
_FIRST, _WARPS = (256, 16384), 8
"""Where keys are split: the first tile of each program, and its warps. Keys that fit into one such tile are not split,
as putting splits together takes longer than a tile: it is to memory and back three times."""


def attend_next(
    qkv_BC: Tensor,
    cos_LC: Tensor,
    sin_LC: Tensor,
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
        cos_LC, sin_LC: float32 [L, D / 2], of all positions.
        norms: of queries and keys, before they are rotated.
        keys_RLKD, values_RLKD: row b of the cache is that of token b; positions before `positions_B` are filled.
        tickets_BK: int32 zeros, and zeros again after the call.
        window: a token sees this many tokens, itself included.
    """
    rows, (length, key_heads, size) = len(qkv_BC), keys_RLKD.shape[1:]
    groups = qkv_BC.shape[1] // (key_heads * size) - 2
    packed = max(16, triton.next_power_of_2(groups))
    splits = max(1, min(_SPLITS, triton.next_power_of_2(PROGRAMS // (rows * key_heads) // 2 + 1)))
    out = qkv_BC.new_empty(rows, key_heads * groups * size)
    mixed = qkv_BC.new_empty(rows, key_heads, packed, splits, size, dtype=torch.float32)
    sums = qkv_BC.new_empty(rows, key_heads, packed, splits, 2, dtype=torch.float32)
    tile, first = (min(keys, elements // size) for keys, elements in (_TILE, _FIRST))
    first, warps = (first, _WARPS) if splits > 1 else (0, 4)
    weights = (norms[0].weight, norms[1].weight) if norms else (qkv_BC, qkv_BC)
    _attend_next[(rows, key_heads, splits)](
        qkv_BC, cos_LC, sin_LC, *weights, keys_RLKD, values_RLKD, positions_B, out, mixed, sums, tickets_BK,
        length, size**-0.5 * 1.4426950408889634, norms[0].eps if norms else 0.0, window or 2**30,
        normed=norms is not None, groups=groups, packed=packed, size=size, first=first, tile=tile, splits=splits,
        num_warps=warps, **launch(qkv_BC),
    )  # fmt: skip
    return out


@triton.jit
def _turned(first, second, weight, cos, sin, eps, half: tl.constexpr, normed: tl.constexpr):  # type: ignore[no-untyped-def]
    """Halves [M, D / 2] of heads after their norm and rotation, in the format they came in."""
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    if normed:
        lane = tl.arange(0, half)
        square = tl.sum(first * first + second * second, -1, keep_dims=True) / (2 * half)
        factor = tl.rsqrt(square + eps)
        first = (first * factor * tl.load(weight + lane).to(tl.float32)).to(dtype).to(tl.float32)
        second = (second * factor * tl.load(weight + half + lane).to(tl.float32)).to(dtype).to(tl.float32)
    return (first * cos - second * sin).to(dtype), (second * cos + first * sin).to(dtype)


@triton.jit
def _held(keys, values, at, stop, heads, size: tl.constexpr, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    """Keys and values of a tile of the cache."""
    key, dims = at + tl.arange(0, tile), tl.arange(0, size)
    there, held = (key < stop)[:, None], key[:, None] * heads * size + dims[None, :]
    return tl.load(keys + held, mask=there, other=0.0), tl.load(values + held, mask=there, other=0.0)


@triton.jit
def _seen(greatest, total, gathered, query, keys, values, at, stop, scale):  # type: ignore[no-untyped-def]
    """Peak and sum of what was seen so far, and the values mixed, with a tile more."""
    there = at + tl.arange(0, values.shape[0]) < stop
    scores = tl.where(there[None, :], tl.dot(query, tl.trans(keys)) * scale, -float("inf"))
    higher = tl.maximum(greatest, tl.max(scores, 1))
    shares = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(greatest - higher)
    gathered = tl.dot(shares.to(values.dtype), values, gathered * shrink[:, None])
    return higher, total * shrink + tl.sum(shares, 1), gathered


@triton.jit
def _attend_next(  # type: ignore[no-untyped-def]
    qkv, cos, sin, q_weight, k_weight, keys, values, positions, out, mixed, sums, tickets, length, scale, eps, window,
    normed: tl.constexpr, groups: tl.constexpr, packed: tl.constexpr, size: tl.constexpr, first: tl.constexpr,
    tile: tl.constexpr, splits: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """A program sees the keys from start to before stop in the cache, the first of a row also that of the new token."""
    half: tl.constexpr = size // 2
    if chained:
        gdc_launch_dependents()
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(1)
    place = tl.load(positions + row).to(tl.int32)
    low = tl.maximum(place + 1 - window, 0)
    share = tl.maximum(tl.cdiv(tl.cdiv(place - low, splits), tile) * tile, max(first, tile))
    start = low + split * share
    stop = tl.minimum(start + share, place)
    if (split > 0) & (start >= stop):  # the first waits for the kernel before, so that this one ends after it
        return
    member, lane, dims = tl.arange(0, packed), tl.arange(0, half), tl.arange(0, size)
    real = (member < groups)[:, None]
    turn_cos, turn_sin = tl.load(cos + place * half + lane), tl.load(sin + place * half + lane)
    keys += (row.to(tl.int64) * length * heads + head) * size
    values += (row.to(tl.int64) * length * heads + head) * size
    if first:  # what others wrote long ago need not wait for the kernel before
        first_keys, first_values = _held(keys, values, start, stop, heads, size, first)
    if chained:
        gdc_wait()
    own = qkv + (row * heads + head) * (groups + 2) * size
    query = own + member[:, None] * size + lane[None, :]
    own += groups * size
    k_first, k_second = tl.load(own + lane), tl.load(own + half + lane)
    value = tl.load(own + size + dims)
    # One load of both halves: Triton changes the layout right after a load, and would wait for each.
    query = query[:, :, None] + tl.arange(0, 2)[None, None, :] * half
    q_first, q_second = tl.split(tl.load(query, mask=real[:, :, None], other=0.0))
    q_first, q_second = _turned(q_first, q_second, q_weight, turn_cos, turn_sin, eps, half, normed)
    k_first, k_second = _turned(k_first, k_second, k_weight, turn_cos, turn_sin, eps, half, normed)
    whole = tl.reshape(tl.trans(tl.join(q_first, q_second), 0, 2, 1), packed, size)

    newest = q_first.to(tl.float32) * k_first.to(tl.float32) + q_second.to(tl.float32) * k_second.to(tl.float32)
    greatest = tl.where(split == 0, tl.sum(newest, 1) * scale, -1e30)
    total = tl.zeros((packed,), tl.float32) + tl.where(split == 0, 1.0, 0.0)
    gathered = tl.zeros((packed, size), tl.float32) + tl.where(split == 0, value.to(tl.float32), 0.0)
    if first:
        greatest, total, gathered = _seen(
            greatest, total, gathered, whole, first_keys, first_values, start, stop, scale
        )
    for at in range(start + first, stop, tile):
        more_keys, more_values = _held(keys, values, at, stop, heads, size, tile)
        greatest, total, gathered = _seen(greatest, total, gathered, whole, more_keys, more_values, at, stop, scale)
    answer = out + ((row * heads + head) * groups + member[:, None]) * size + dims[None, :]
    pieces = tl.cdiv(place - low, share)
    if pieces <= 1:
        tl.store(answer, (gathered / total[:, None]).to(out.dtype.element_ty), mask=real)
    if split == 0:
        fresh = place * heads * size
        tl.store(keys + fresh + lane, k_first)
        tl.store(keys + fresh + half + lane, k_second)
        tl.store(values + fresh + dims, value)
    if splits > 1 and pieces > 1:
        own_mixed = mixed + ((row * heads + head) * packed + member[:, None]) * splits * size
        own_sums = sums + ((row * heads + head) * packed + member) * splits * 2
        tl.store(own_mixed + split * size + dims[None, :], gathered, mask=real)
        tl.store(own_sums + split * 2, greatest)
        tl.store(own_sums + split * 2 + 1, total)
        tl.debug_barrier()  # all threads have written before one of them takes the ticket
        ticket = tickets + row * heads + head
        if tl.atomic_add(ticket, 1) == pieces - 1:  # the last to come puts the pieces together
            tl.store(ticket, 0)
            together = _together(own_mixed, own_sums, pieces, real, dims)
            tl.store(answer, together.to(out.dtype.element_ty), mask=real)


@triton.jit
def _together(mixed, sums, pieces, real, dims):  # type: ignore[no-untyped-def]
    """The pieces' mixed values, eight pieces at a time."""
    greatest = tl.full((real.shape[0],), -1e30, tl.float32)
    total = tl.zeros((real.shape[0],), tl.float32)
    gathered = tl.zeros((real.shape[0], dims.shape[0]), tl.float32)
    for at in range(0, pieces, 8):
        piece = at + tl.arange(0, 8)[None, :]
        there = piece < pieces
        spots = sums[:, None] + piece * 2
        peaks = tl.load(spots, mask=there, other=-1e30, cache_modifier=".cg")
        totals = tl.load(spots + 1, mask=there, other=0.0, cache_modifier=".cg")
        spots = mixed[:, :, None] + piece[:, :, None] * dims.shape[0] + dims[None, None, :]
        parts = tl.load(spots, mask=(real & there)[:, :, None], other=0.0, cache_modifier=".cg")
        higher = tl.maximum(greatest, tl.max(peaks, 1))
        shrink, factors = tl.exp2(greatest - higher), tl.exp2(peaks - higher[:, None])
        total = total * shrink + tl.sum(totals * factors, 1)
        gathered = gathered * shrink[:, None] + tl.sum(parts * factors[:, :, None], 1)
        greatest = higher
    return gathered / total[:, None]
