"""Causal attention over documents that lie end to end, as Triton kernels. Imported where there is a GPU only.

FlashAttention's scheme (Dao 2023, arXiv 2307.08691) with two changes. Where a token's view begins and where it stops
being seen are given for each token (`spans`), so tiles are cut from the whole stream, whatever its documents; a sliding
window is only another `begin`, a prompt that two answers share only another `end`. And the query heads that share a
key-value head lie in one tile: keys and values are read once for all of them, their gradients are summed inside it, and
tiles of few tokens waste little at the diagonal and at the edges of documents. Gradients are made without atomics, so
their bits repeat.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

TILES = {
    64: ((128, 64, 4, 3), (64, 32, 4, 3), (64, 64, 4, 2)),
    128: ((64, 64, 4, 3), (64, 32, 4, 3), (32, 64, 4, 2)),
}
"""By size of a head, for the forward pass, the gradient of queries and that of keys and values: rows (tokens times
packed heads) and keys of a tile, warps, stages of the pipeline. The quickest on an H200 of some 25 tried for each."""
CAPABILITIES = (9, 10)
"""Generations of GPUs with the shared memory that these tiles need."""


def spans(cu: Tensor, tokens: int, window: int | None, shared: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """int32 [N] each: the first token that a token sees, the first token after it that does not see it, and where what
    it sees has a gap, the first token in the gap (2^31 - 1: none). The gap ends where the token's document begins.
    Without `shared` there are no gaps, and the third is empty: the kernels' usual, quicker form.

    Args:
        cu: int32 [D + 1], where documents begin among `tokens` tokens; the last entry is `tokens`.
        window: a token sees this many tokens, itself included.
        shared: int32 [D], how many of the first tokens of the document before it a document sees besides its own.
    """
    place = torch.arange(tokens, dtype=torch.int32, device=cu.device)
    after = torch.searchsorted(cu, place, right=True)
    begin, end = cu[after - 1], cu[after]
    gap = place[:0]
    if shared is not None:
        before, own = cu[(after - 2).clamp(min=0)], shared[after - 1]
        asked = torch.cat([shared[1:], shared.new_zeros(1)])[after - 1]  # by the document after it
        end = torch.where(place - begin < asked, cu[(after + 1).clamp(max=len(cu) - 1)], end)
        begin, gap = torch.where(own > 0, before, begin), torch.where(own > 0, before + own, 2**31 - 1)
    if window is not None:
        begin, end = torch.maximum(begin, place - (window - 1)), torch.minimum(end, place + window)
    return begin, end, gap


@custom_op("danlu::document_attention", mutates_args=())
def document_attention(
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention [N, H, D] of q [N, H, D] over k and v [N, K, D], and log2 of each softmax's sum, float32 [N, H].

    K divides H; D is in `TILES`; a head's D numbers lie side by side.
    """
    tokens, heads, size = q.shape
    out = q.new_empty(q.shape)
    lse = q.new_empty(tokens, heads, dtype=torch.float32)
    packed = _packed(heads // k.shape[1])
    rows, keys, warps, stages = TILES[size][0]
    _forward[(triton.cdiv(tokens, rows // packed), heads // packed)](
        q, k, v, out, lse, begin, end, gap, tokens, *_strides(q, k, v), heads, _scale(size),
        groups=heads // k.shape[1] // packed, packed=packed, rows=rows, keys=keys, size=size,
        gapped=int(len(gap) > 0), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out, lse


@custom_op("danlu::document_attention_backward", mutates_args=())
def document_attention_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, begin: Tensor, end: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, contiguous."""
    tokens, heads, size = q.shape
    dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    delta = torch.empty_like(lse)
    per_key = heads // k.shape[1]
    packed = _packed(per_key)
    strides = _strides(q, k, v)
    rows, keys, warps, stages = TILES[size][1]
    _backward_queries[(triton.cdiv(tokens, rows // packed), heads // packed)](
        q, k, v, out, d_out, dq, lse, delta, begin, end, gap, tokens, *strides, heads, _scale(size),
        groups=per_key // packed, packed=packed, rows=rows, keys=keys, size=size,
        gapped=int(len(gap) > 0), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    rows, keys, warps, stages = TILES[size][2]
    _backward_keys[(triton.cdiv(tokens, keys), k.shape[1])](
        q, k, v, d_out, dk, dv, lse, delta, begin, end, tokens, *strides, heads, _scale(size),
        groups=per_key // packed, packed=packed, rows=rows, keys=keys, size=size,
        gapped=int(len(gap) > 0), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return dq, dk, dv


def _strides(*tensors: Tensor) -> list[int]:
    """Elements from token to token and from head to head, of each; within a head they lie side by side."""
    if any(x.stride(2) != 1 for x in tensors):
        raise ValueError(f"heads must lie in memory whole, not with strides {[x.stride() for x in tensors]}")
    return [stride for x in tensors for stride in x.stride()[:2]]


def _packed(per_key: int) -> int:
    """Query heads in one tile: the largest power of two that divides those of a key-value head, at most 16."""
    return min(per_key & -per_key, 16)


def _scale(size: int) -> float:
    return size**-0.5 * 1.4426950408889634  # log2(e): the kernels use powers of two


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, begin, end, gap = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, begin, end, gap)


def _differentiate(ctx: Any, d_out: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    return *document_attention_backward(d_out.contiguous(), *ctx.saved_tensors), None, None, None


document_attention.register_autograd(_differentiate, setup_context=_save)


@document_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@document_attention_backward.register_fake
def _(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, begin: Tensor, end: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@triton.jit
def _tiles(part: tl.constexpr, edge, near, beyond, far, every):  # type: ignore[no-untyped-def]
    """Tiles at the edge of documents, tiles seen whole, tiles at the diagonal, and those where a gap begins: the second
    part needs no mask.
    """
    start, stop = 0 * edge, edge
    if part == 1:
        start, stop = edge, near
    if part == 2:
        start, stop = far, every
    if part == 3:
        start, stop = near, beyond
    return start, stop


@triton.jit
def _key_tiles(  # type: ignore[no-untyped-def]
    begins, ends, gaps, first, last, keys: tl.constexpr, gapped: tl.constexpr
):
    """Where the view of the queries from `first` to before `last` begins, and after that its tiles: to the first number
    those at the edge of documents, to the second tiles seen whole, to the third one where a gap begins, then from the
    fourth to the fifth those after the gap and at the diagonal.
    """
    low = tl.load(begins + first)
    edge = tl.cdiv(tl.load(begins + last - 1) - low, keys)  # every query sees the keys from here to `first`
    near = tl.maximum(edge, (first + 1 - low) // keys)
    beyond, far = near, near
    if gapped:
        gap = tl.load(gaps + first)
        alike = gap == tl.load(gaps + last - 1)
        near = tl.where(alike, tl.maximum(edge, tl.minimum(near, (tl.minimum(gap, first + 1) - low) // keys)), edge)
        jumps = alike & (gap < first)
        beyond = tl.where(jumps, near + 1, near)
        far = tl.where(jumps, tl.maximum(beyond, (tl.load(ends + tl.minimum(gap, first)) - low) // keys), near)
    return low, edge, near, beyond, far, tl.cdiv(last - low, keys)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    total, greatest, mixed, queries, k, v, k_token, v_token, place, begin, ends, low, key, last, scale,
    keys: tl.constexpr, size: tl.constexpr, masked: tl.constexpr, gapped: tl.constexpr,
):  # fmt: skip
    """One tile of keys into the running softmax."""
    lanes, dims = key + tl.arange(0, keys), tl.arange(0, size)
    keys_KD = tl.load(k + lanes[:, None] * k_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    scores = tl.dot(queries, tl.trans(keys_KD))
    if masked:
        seen = (lanes[None, :] >= begin[:, None]) & (lanes[None, :] <= place[:, None])
        if gapped:
            end = tl.load(ends + low + lanes, mask=lanes < last, other=0) - low
            seen = seen & (place[:, None] < end[None, :])
        scores = tl.where(seen, scores, -float("inf"))
    higher = tl.maximum(greatest, tl.max(scores, 1) * scale)
    shares = tl.exp2(scores * scale - higher[:, None])
    shrink = tl.exp2(greatest - higher)
    values_KD = tl.load(v + lanes[:, None] * v_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    mixed = tl.dot(shares.to(values_KD.dtype), values_KD, mixed * shrink[:, None])
    return total * shrink + tl.sum(shares, 1), higher, mixed


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, out, lse, begins, ends, gaps, tokens, q_token, q_head, k_token, k_head, v_token, v_head, heads, scale,
    groups: tl.constexpr, packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr,
    gapped: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    length: tl.constexpr = rows // packed
    first = tl.program_id(0) * length
    last = tl.minimum(first + length, tokens)
    row, dims = tl.arange(0, rows), tl.arange(0, size)
    place = first + row // packed
    inside = place < tokens
    head = group * packed + row % packed
    begin = tl.load(begins + place, mask=inside, other=2147483647)
    queries = q + place[:, None].to(tl.int64) * q_token + head[:, None] * q_head + dims[None, :]
    queries = tl.load(queries, mask=inside[:, None], other=0.0)
    low, edge, near, beyond, far, every = _key_tiles(begins, ends, gaps, first, last, keys, gapped)
    k += low.to(tl.int64) * k_token + (group // groups) * k_head
    v += low.to(tl.int64) * v_token + (group // groups) * v_head
    spot = place.to(tl.int64) * heads + head
    place -= low
    begin -= low
    total = tl.zeros((rows,), tl.float32)
    greatest = tl.full((rows,), -1e30, tl.float32)
    mixed = tl.zeros((rows, size), tl.float32)
    for part in tl.static_range(3 + gapped):
        start, stop = _tiles(part, edge, near, beyond, far, every)
        for number in range(start, stop):
            total, greatest, mixed = _attend(
                total, greatest, mixed, queries, k, v, k_token, v_token, place, begin, ends, low,
                number * keys, last - low, scale, keys, size, part != 1, gapped,
            )  # fmt: skip
    total = tl.where(inside, total, 1.0)
    mixed = (mixed / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + spot[:, None] * size + dims[None, :], mixed, mask=inside[:, None])
    tl.store(lse + spot, greatest + tl.log2(total), mask=inside)


@triton.jit
def _query_gradient(  # type: ignore[no-untyped-def]
    dq, queries, d_mixed, lse, delta, k, v, k_token, v_token, place, begin, ends, low, key, last, scale,
    keys: tl.constexpr, size: tl.constexpr, masked: tl.constexpr, gapped: tl.constexpr,
):  # fmt: skip
    """What one tile of keys adds to the gradient of a tile of queries, before the scale."""
    lanes, dims = key + tl.arange(0, keys), tl.arange(0, size)
    keys_KD = tl.load(k + lanes[:, None] * k_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    values_KD = tl.load(v + lanes[:, None] * v_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    shares = tl.exp2(tl.dot(queries, tl.trans(keys_KD)) * scale - lse[:, None])
    if masked:
        seen = (lanes[None, :] >= begin[:, None]) & (lanes[None, :] <= place[:, None])
        if gapped:
            end = tl.load(ends + low + lanes, mask=lanes < last, other=0) - low
            seen = seen & (place[:, None] < end[None, :])
        shares = tl.where(seen, shares, 0.0)
    d_scores = shares * (tl.dot(d_mixed, tl.trans(values_KD)) - delta[:, None])
    return tl.dot(d_scores.to(keys_KD.dtype), keys_KD, dq)


@triton.jit
def _backward_queries(  # type: ignore[no-untyped-def]
    q, k, v, out, d_out, d_q, lse, deltas, begins, ends, gaps, tokens,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, scale,
    groups: tl.constexpr, packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr,
    gapped: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    length: tl.constexpr = rows // packed
    first = tl.program_id(0) * length
    last = tl.minimum(first + length, tokens)
    row, dims = tl.arange(0, rows), tl.arange(0, size)
    place = first + row // packed
    inside = place < tokens
    head = group * packed + row % packed
    begin = tl.load(begins + place, mask=inside, other=2147483647)
    queries = q + place[:, None].to(tl.int64) * q_token + head[:, None] * q_head + dims[None, :]
    queries = tl.load(queries, mask=inside[:, None], other=0.0)
    spot = place.to(tl.int64) * heads + head
    d_mixed = tl.load(d_out + spot[:, None] * size + dims[None, :], mask=inside[:, None], other=0.0)
    mixed = tl.load(out + spot[:, None] * size + dims[None, :], mask=inside[:, None], other=0.0)
    delta = tl.sum(d_mixed.to(tl.float32) * mixed.to(tl.float32), 1)
    tl.store(deltas + spot, delta, mask=inside)
    sums = tl.load(lse + spot, mask=inside, other=0.0)
    low, edge, near, beyond, far, every = _key_tiles(begins, ends, gaps, first, last, keys, gapped)
    k += low.to(tl.int64) * k_token + (group // groups) * k_head
    v += low.to(tl.int64) * v_token + (group // groups) * v_head
    place -= low
    begin -= low
    dq = tl.zeros((rows, size), tl.float32)
    for part in tl.static_range(3 + gapped):
        start, stop = _tiles(part, edge, near, beyond, far, every)
        for number in range(start, stop):
            dq = _query_gradient(
                dq, queries, d_mixed, sums, delta, k, v, k_token, v_token, place, begin, ends, low,
                number * keys, last - low, scale, keys, size, part != 1, gapped,
            )  # fmt: skip
    dq *= scale * 0.6931471805599453  # ln 2 takes log2(e) out of the scale again
    tl.store(d_q + spot[:, None] * size + dims[None, :], dq.to(d_q.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _key_gradient(  # type: ignore[no-untyped-def]
    dk, dv, keys_KD, values_KD, end, q, d_out, lse, deltas, begins, q_token, q_head, heads, low, head, first, tokens,
    scale, packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr, masked: tl.constexpr,
    gapped: tl.constexpr,
):  # fmt: skip
    """What one tile of queries adds to the gradients of a tile of keys, before the scale."""
    row, dims = tl.arange(0, rows), tl.arange(0, size)
    place = first + row // packed
    inside = place < tokens
    head += row % packed
    queries = q + place[:, None] * q_token + head[:, None] * q_head + dims[None, :]
    queries = tl.load(queries, mask=inside[:, None], other=0.0)
    spot = place * heads + head
    d_mixed = tl.load(d_out + spot[:, None] * size + dims[None, :], mask=inside[:, None], other=0.0)
    sums = tl.load(lse + spot, mask=inside, other=float("inf"))
    delta = tl.load(deltas + spot, mask=inside, other=0.0)
    shares = tl.exp2(tl.dot(keys_KD, tl.trans(queries)) * scale - sums[None, :])
    if masked:
        key = tl.arange(0, keys)[:, None]
        begin = tl.load(begins + place, mask=inside, other=2147483647) - low
        seen = (key >= begin[None, :]) & (key <= place[None, :])
        if gapped:
            seen = seen & (place[None, :] < end[:, None])
        shares = tl.where(seen, shares, 0.0)
    dv = tl.dot(shares.to(d_mixed.dtype), d_mixed, dv)
    d_scores = shares * (tl.dot(values_KD, tl.trans(d_mixed)) - delta[None, :])
    return tl.dot(d_scores.to(queries.dtype), queries, dk), dv


@triton.jit
def _backward_keys(  # type: ignore[no-untyped-def]
    q, k, v, d_out, d_k, d_v, lse, deltas, begins, ends, tokens,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, scale,
    groups: tl.constexpr, packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr,
    gapped: tl.constexpr,
):  # fmt: skip
    key_head = tl.program_id(1)
    length: tl.constexpr = rows // packed
    low = tl.program_id(0) * keys
    key, dims = tl.arange(0, keys), tl.arange(0, size)
    wide = low.to(tl.int64)
    tokens -= low
    inside = key < tokens
    k += wide * k_token + key_head * k_head
    v += wide * v_token + key_head * v_head
    keys_KD = tl.load(k + key[:, None] * k_token + dims[None, :], mask=inside[:, None], other=0.0)
    values_KD = tl.load(v + key[:, None] * v_token + dims[None, :], mask=inside[:, None], other=0.0)
    q += wide * q_token
    d_out += wide * heads * size
    lse += wide * heads
    deltas += wide * heads
    begins += low
    final = tl.minimum(keys, tokens) - 1
    shared = tl.load(ends + low) - low  # every query from `final` to before this one sees all keys of the tile
    beyond = tl.load(ends + low + final) - low
    end = key
    if gapped:
        end = tl.load(ends + low + key, mask=inside, other=0) - low
        shared, beyond = tl.min(tl.where(inside, end, tokens), 0), tl.max(end, 0)
    edge = tl.cdiv(final, length)
    whole = tl.maximum(edge, shared // length)
    every = tl.cdiv(beyond, length)
    dk = tl.zeros((keys, size), tl.float32)
    dv = tl.zeros((keys, size), tl.float32)
    for group in range(groups):
        head = (key_head * groups + group) * packed
        for part in tl.static_range(3):
            start, stop = _tiles(part, edge, whole, whole, whole, every)
            for number in range(start, stop):
                dk, dv = _key_gradient(
                    dk, dv, keys_KD, values_KD, end, q, d_out, lse, deltas, begins, q_token, q_head, heads, low, head,
                    number * length, tokens, scale, packed, rows, keys, size, part != 1, gapped,
                )  # fmt: skip
    dk *= scale * 0.6931471805599453
    key_heads = heads // (groups * packed)
    spot = ((wide + key[:, None]) * key_heads + key_head) * size + dims[None, :]
    tl.store(d_k + spot, dk.to(d_k.dtype.element_ty), mask=inside[:, None])
    tl.store(d_v + spot, dv.to(d_v.dtype.element_ty), mask=inside[:, None])
