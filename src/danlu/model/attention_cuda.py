"""Causal attention over documents that lie end to end, as Triton kernels. Imported where there is a GPU only.

FlashAttention's scheme (Dao 2023, arXiv 2307.08691) with two changes. Where a token's view begins and where it stops
being seen are given for each token (`spans`), so tiles are cut from the whole stream, whatever its documents, and a
sliding window is only another `begin`. And the query heads that share a key-value head lie in one tile: keys and
values are read once for all of them, their gradients are summed inside it, and tiles of few tokens waste little at the
diagonal and at the edges of documents. Gradients are made without atomics, so their bits repeat.
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


def spans(cu: Tensor, tokens: int, window: int | None) -> tuple[Tensor, Tensor]:
    """int32 [N] each: the first token that a token sees, and the first token after it that does not see it.

    Args:
        cu: int32 [D + 1], where documents begin among `tokens` tokens; the last entry is `tokens`.
        window: a token sees this many tokens, itself included.
    """
    place = torch.arange(tokens, dtype=torch.int32, device=cu.device)
    after = torch.searchsorted(cu, place, right=True)
    begin, end = cu[after - 1], cu[after]
    if window is None:
        return begin, end
    return torch.maximum(begin, place - (window - 1)), torch.minimum(end, place + window)


@custom_op("danlu::document_attention", mutates_args=())
def document_attention(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Attention [N, H, D] of q [N, H, D] over k and v [N, K, D], and log2 of each softmax's sum, float32 [N, H].

    K divides H; D is in `TILES`; a head's D numbers lie side by side.
    """
    tokens, heads, size = q.shape
    out = q.new_empty(q.shape)
    lse = q.new_empty(tokens, heads, dtype=torch.float32)
    packed = _packed(heads // k.shape[1])
    rows, keys, warps, stages = TILES[size][0]
    _forward[(triton.cdiv(tokens, rows // packed), heads // packed)](
        q, k, v, out, lse, begin, tokens, *_strides(q, k, v), heads, _scale(size),
        groups=heads // k.shape[1] // packed, packed=packed, rows=rows, keys=keys, size=size,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out, lse


@custom_op("danlu::document_attention_backward", mutates_args=())
def document_attention_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, begin: Tensor, end: Tensor
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
        q, k, v, out, d_out, dq, lse, delta, begin, tokens, *strides, heads, _scale(size),
        groups=per_key // packed, packed=packed, rows=rows, keys=keys, size=size, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    rows, keys, warps, stages = TILES[size][2]
    _backward_keys[(triton.cdiv(tokens, keys), k.shape[1])](
        q, k, v, d_out, dk, dv, lse, delta, begin, end, tokens, *strides, heads, _scale(size),
        groups=per_key // packed, packed=packed, rows=rows, keys=keys, size=size, num_warps=warps, num_stages=stages,
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
    q, k, v, begin, end = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, begin, end)


def _differentiate(ctx: Any, d_out: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    return *document_attention_backward(d_out.contiguous(), *ctx.saved_tensors), None, None


document_attention.register_autograd(_differentiate, setup_context=_save)


@document_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@document_attention_backward.register_fake
def _(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, begin: Tensor, end: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@triton.jit
def _tiles(part: tl.constexpr, edge, whole, every):  # type: ignore[no-untyped-def]
    """Tiles at the edge of documents, tiles seen whole, and tiles at the diagonal: the second part needs no mask."""
    start, stop = edge, whole
    if part == 0:
        start, stop = 0 * edge, edge
    if part == 2:
        start, stop = whole, every
    return start, stop


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    total, greatest, mixed, queries, k, v, k_token, v_token, place, begin, key, last, scale,
    keys: tl.constexpr, size: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """One tile of keys into the running softmax."""
    lanes, dims = key + tl.arange(0, keys), tl.arange(0, size)
    keys_KD = tl.load(k + lanes[:, None] * k_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    scores = tl.dot(queries, tl.trans(keys_KD))
    if masked:
        seen = (lanes[None, :] >= begin[:, None]) & (lanes[None, :] <= place[:, None])
        scores = tl.where(seen, scores, -float("inf"))
    higher = tl.maximum(greatest, tl.max(scores, 1) * scale)
    shares = tl.exp2(scores * scale - higher[:, None])
    shrink = tl.exp2(greatest - higher)
    values_KD = tl.load(v + lanes[:, None] * v_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    mixed = tl.dot(shares.to(values_KD.dtype), values_KD, mixed * shrink[:, None])
    return total * shrink + tl.sum(shares, 1), higher, mixed


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, out, lse, begins, tokens, q_token, q_head, k_token, k_head, v_token, v_head, heads, scale,
    groups: tl.constexpr, packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr,
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
    low = tl.load(begins + first)
    shared = tl.load(begins + last - 1)  # every row sees the keys from here to `first`
    k += low.to(tl.int64) * k_token + (group // groups) * k_head
    v += low.to(tl.int64) * v_token + (group // groups) * v_head
    spot = place.to(tl.int64) * heads + head
    place -= low
    begin -= low
    edge = tl.cdiv(shared - low, keys)
    whole = tl.maximum(edge, (first + 1 - low) // keys)
    every = tl.cdiv(last - low, keys)
    total = tl.zeros((rows,), tl.float32)
    greatest = tl.full((rows,), -1e30, tl.float32)
    mixed = tl.zeros((rows, size), tl.float32)
    for part in tl.static_range(3):
        start, stop = _tiles(part, edge, whole, every)
        for number in range(start, stop):
            total, greatest, mixed = _attend(
                total, greatest, mixed, queries, k, v, k_token, v_token, place, begin,
                number * keys, last - low, scale, keys, size, part != 1,
            )  # fmt: skip
    total = tl.where(inside, total, 1.0)
    mixed = (mixed / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + spot[:, None] * size + dims[None, :], mixed, mask=inside[:, None])
    tl.store(lse + spot, greatest + tl.log2(total), mask=inside)


@triton.jit
def _query_gradient(  # type: ignore[no-untyped-def]
    dq, queries, d_mixed, lse, delta, k, v, k_token, v_token, place, begin, key, last, scale,
    keys: tl.constexpr, size: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """What one tile of keys adds to the gradient of a tile of queries, before the scale."""
    lanes, dims = key + tl.arange(0, keys), tl.arange(0, size)
    keys_KD = tl.load(k + lanes[:, None] * k_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    values_KD = tl.load(v + lanes[:, None] * v_token + dims[None, :], mask=(lanes < last)[:, None], other=0.0)
    shares = tl.exp2(tl.dot(queries, tl.trans(keys_KD)) * scale - lse[:, None])
    if masked:
        shares = tl.where((lanes[None, :] >= begin[:, None]) & (lanes[None, :] <= place[:, None]), shares, 0.0)
    d_scores = shares * (tl.dot(d_mixed, tl.trans(values_KD)) - delta[:, None])
    return tl.dot(d_scores.to(keys_KD.dtype), keys_KD, dq)


@triton.jit
def _backward_queries(  # type: ignore[no-untyped-def]
    q, k, v, out, d_out, d_q, lse, deltas, begins, tokens,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, scale,
    groups: tl.constexpr, packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr,
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
    low = tl.load(begins + first)
    shared = tl.load(begins + last - 1)
    k += low.to(tl.int64) * k_token + (group // groups) * k_head
    v += low.to(tl.int64) * v_token + (group // groups) * v_head
    place -= low
    begin -= low
    edge = tl.cdiv(shared - low, keys)
    whole = tl.maximum(edge, (first + 1 - low) // keys)
    every = tl.cdiv(last - low, keys)
    dq = tl.zeros((rows, size), tl.float32)
    for part in tl.static_range(3):
        start, stop = _tiles(part, edge, whole, every)
        for number in range(start, stop):
            dq = _query_gradient(
                dq, queries, d_mixed, sums, delta, k, v, k_token, v_token, place, begin,
                number * keys, last - low, scale, keys, size, part != 1,
            )  # fmt: skip
    dq *= scale * 0.6931471805599453  # ln 2 takes log2(e) out of the scale again
    tl.store(d_q + spot[:, None] * size + dims[None, :], dq.to(d_q.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _key_gradient(  # type: ignore[no-untyped-def]
    dk, dv, keys_KD, values_KD, q, d_out, lse, deltas, begins, q_token, q_head, heads, low, head, first, tokens, scale,
    packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr, masked: tl.constexpr,
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
        shares = tl.where((key >= begin[None, :]) & (key <= place[None, :]), shares, 0.0)
    dv = tl.dot(shares.to(d_mixed.dtype), d_mixed, dv)
    d_scores = shares * (tl.dot(values_KD, tl.trans(d_mixed)) - delta[None, :])
    return tl.dot(d_scores.to(queries.dtype), queries, dk), dv


@triton.jit
def _backward_keys(  # type: ignore[no-untyped-def]
    q, k, v, d_out, d_k, d_v, lse, deltas, begins, ends, tokens,
    q_token, q_head, k_token, k_head, v_token, v_head, heads, scale,
    groups: tl.constexpr, packed: tl.constexpr, rows: tl.constexpr, keys: tl.constexpr, size: tl.constexpr,
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
    edge = tl.cdiv(final, length)
    whole = tl.maximum(edge, shared // length)
    every = tl.cdiv(tl.load(ends + low + final) - low, length)
    dk = tl.zeros((keys, size), tl.float32)
    dv = tl.zeros((keys, size), tl.float32)
    for group in range(groups):
        head = (key_head * groups + group) * packed
        for part in tl.static_range(3):
            start, stop = _tiles(part, edge, whole, every)
            for number in range(start, stop):
                dk, dv = _key_gradient(
                    dk, dv, keys_KD, values_KD, q, d_out, lse, deltas, begins, q_token, q_head, heads, low, head,
                    number * length, tokens, scale, packed, rows, keys, size, part != 1,
                )  # fmt: skip
    dk *= scale * 0.6931471805599453
    key_heads = heads // (groups * packed)
    spot = ((wide + key[:, None]) * key_heads + key_head) * size + dims[None, :]
    tl.store(d_k + spot, dk.to(d_k.dtype.element_ty), mask=inside[:, None])
    tl.store(d_v + spot, dv.to(d_v.dtype.element_ty), mask=inside[:, None])
