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

_TILE, _SPLITS = 64, 32  # keys of a tile; splits of a row's keys at most


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
    splits = max(1, min(_SPLITS, triton.next_power_of_2(PROGRAMS // (rows * key_heads) // 2 + 1)))
    out = qkv_BC.new_empty(rows, key_heads * groups * size)
    mixed = qkv_BC.new_empty(rows, key_heads, splits, packed, size, dtype=torch.float32)
    sums = qkv_BC.new_empty(rows, key_heads, splits, 2, packed, dtype=torch.float32)
    weights = (norms[0].weight, norms[1].weight) if norms else (qkv_BC, qkv_BC)
    _attend_next[(rows, key_heads, splits)](
        qkv_BC, cos_BC, sin_BC, *weights, keys_RLKD, values_RLKD, positions_B, out, mixed, sums, tickets_BK,
        length, size**-0.5 * 1.4426950408889634, norms[0].eps if norms else 0.0, window or 2**30,
        normed=norms is not None, groups=groups, packed=packed, size=size, tile=_TILE, splits=splits,
        ahead=splits > 1, num_warps=4, **launch(qkv_BC),
    )  # fmt: skip
    return out


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
def _held(  # type: ignore[no-untyped-def]
    keys, values, at, stop, place, heads, size: tl.constexpr, tile: tl.constexpr
):
    """Keys, in halves, and values of a tile, but for those that are new."""
    key, lane, dims = at + tl.arange(0, tile), tl.arange(0, size // 2), tl.arange(0, size)
    old = (key < tl.minimum(stop, place))[:, None]
    held = key[:, None] * heads * size
    first = tl.load(keys + held + lane[None, :], mask=old, other=0.0)
    second = tl.load(keys + held + size // 2 + lane[None, :], mask=old, other=0.0)
    return first, second, tl.load(values + held + dims[None, :], mask=old, other=0.0)


@triton.jit
def _attend_next(  # type: ignore[no-untyped-def]
    qkv, cos, sin, q_weight, k_weight, keys, values, positions, out, mixed, sums, tickets, length, scale, eps, window,
    normed: tl.constexpr, groups: tl.constexpr, packed: tl.constexpr, size: tl.constexpr, tile: tl.constexpr,
    splits: tl.constexpr, ahead: tl.constexpr, chained: tl.constexpr,
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
    if ahead:  # what others wrote long ago need not wait for the kernel before
        tile_first, tile_second, tile_values = _held(keys, values, start, stop, place, heads, size, tile)
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
        if not ahead:
            tile_first, tile_second, tile_values = _held(keys, values, at, stop, place, heads, size, tile)
        key = at + tl.arange(0, tile)
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
        if ahead:
            tile_first, tile_second, tile_values = _held(keys, values, at + tile, stop, place, heads, size, tile)
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
