"""The ends of a decoding step, in Triton: from tokens to their embeddings, and from logits to the next tokens. Imported
where there is a GPU only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from danlu.infer.products_cuda import PROGRAMS
from danlu.model.decoder import Decoder
from danlu.model.integers import Int8Embedding
from danlu.model.launch_cuda import launch

_LOGITS = 1024  # that a program looks at at once


def embedded(decoder: Decoder, tokens_B: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens' embeddings [B, D], and for each of their key-value heads a ticket: int32 zeros [B, K].

    Waits for all that was asked for before, as `attend_next` reads positions without waiting.
    """
    embed: nn.Module = decoder.embed
    held = embed.rows if isinstance(embed, Int8Embedding) else None
    weight, scales = (decoder.embed.weight, None) if held is None else (held.values, held.scales)
    rows, width, heads = len(tokens_B), weight.shape[1], decoder.settings.kv_heads
    x_BD = decoder.norm.weight.new_empty(rows, width)
    tickets_BK = torch.empty(rows, heads, dtype=torch.int32, device=x_BD.device)
    block = triton.next_power_of_2(max(width, heads))
    _embedded[(rows,)](
        weight, scales, tokens_B, x_BD, tickets_BK, width, heads, scaled=held is not None, block=block,
        num_warps=min(8, max(1, block // 256)), chained=launch(x_BD)["chained"],
    )  # fmt: skip
    return x_BD, tickets_BK


def take_likeliest(logits_BV: Tensor, inputs_2B: Tensor, tickets_BK: Tensor, length: int) -> Tensor:
    """The first of the greatest logits of each row, and whether the row holds NaN (0 or 1), int64 [2, B]; any token
    where it does.

    Args:
        inputs_2B: tokens and positions, int64: become those tokens at the positions that follow, below `length`.
        tickets_BK: int32 zeros, and zeros again after the call.
    """
    rows, vocabulary = logits_BV.shape
    splits = max(1, min(triton.cdiv(vocabulary, _LOGITS), 4 * PROGRAMS // rows))
    share = triton.cdiv(triton.cdiv(vocabulary, splits), _LOGITS) * _LOGITS
    splits = triton.cdiv(vocabulary, share)
    likeliest_2B = torch.empty_like(inputs_2B)
    peaks_BS = torch.empty(rows, splits, dtype=torch.float32, device=logits_BV.device)
    places_BS = torch.empty(rows, splits, dtype=torch.int32, device=logits_BV.device)
    _take_likeliest[(rows, splits)](
        logits_BV, inputs_2B, likeliest_2B, peaks_BS, places_BS, tickets_BK, vocabulary, share, length,
        tickets_BK.shape[1], block=_LOGITS, pieces=triton.next_power_of_2(splits), num_warps=4, **launch(logits_BV),
    )  # fmt: skip
    return likeliest_2B


@triton.jit
def _embedded(  # type: ignore[no-untyped-def]
    weight, scales, tokens, x, tickets, width, heads, scaled: tl.constexpr, block: tl.constexpr, chained: tl.constexpr
):
    if chained:
        gdc_launch_dependents()
    row, lane = tl.program_id(0), tl.arange(0, block)
    token, inside = tl.load(tokens + row), lane < width
    found = tl.load(weight + token * width + lane, mask=inside)
    if scaled:
        found = found.to(tl.float32) * tl.load(scales + token)
    tl.store(x + row * width + lane, found.to(x.dtype.element_ty), mask=inside)
    tl.store(tickets + row * heads + lane, 0, mask=lane < heads)


@triton.jit
def _first(values, places, beyond):  # type: ignore[no-untyped-def]
    """The greatest value, and the lowest of its places."""
    greatest = tl.max(values, 0)
    return greatest, tl.min(tl.where(values == greatest, places, beyond), 0)


@triton.jit
def _take_likeliest(  # type: ignore[no-untyped-def]
    logits, inputs, likeliest, peaks, places, tickets, vocabulary, share, length, heads, block: tl.constexpr,
    pieces: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """A program sees a share of a row's logits; the last to come sees what all have found."""
    row, split = tl.program_id(0), tl.program_id(1)
    rows, splits = tl.num_programs(0), tl.num_programs(1)
    lane, piece = tl.arange(0, block), tl.arange(0, pieces)
    start = split * share
    stop = tl.minimum(start + share, vocabulary)
    greatest = tl.full((block,), -float("inf"), tl.float32)
    place = start + lane
    missing = tl.zeros((block,), tl.int32)
    if chained:
        gdc_wait()
    logits += row.to(tl.int64) * vocabulary
    for at in range(start, stop, block):
        value = tl.load(logits + at + lane, mask=at + lane < stop, other=-float("inf")).to(tl.float32)
        missing |= (value != value).to(tl.int32)
        better = value > greatest  # NaN is not
        greatest, place = tl.where(better, value, greatest), tl.where(better, at + lane, place)
    peak, found = _first(greatest, place, vocabulary)
    own = row * splits
    tl.store(peaks + own + split, tl.where(tl.max(missing, 0) > 0, float("nan"), peak))
    tl.store(places + own + split, found)
    tl.debug_barrier()  # all threads have written before one of them takes the ticket
    ticket = tickets + row * heads
    if tl.atomic_add(ticket, 1) == splits - 1:
        tl.store(ticket, 0)
        there = piece < splits
        peaks_S = tl.load(peaks + own + piece, mask=there, other=-float("inf"), cache_modifier=".cg")
        places_S = tl.load(places + own + piece, mask=there, other=vocabulary, cache_modifier=".cg")
        sound = tl.where(peaks_S == peaks_S, peaks_S, -float("inf"))
        peak, token = _first(sound, places_S, vocabulary)
        position = tl.minimum(tl.load(inputs + rows + row) + 1, length - 1)
        tl.store(likeliest + row, token.to(tl.int64))
        tl.store(likeliest + rows + row, tl.max((peaks_S != peaks_S).to(tl.int64), 0))
        tl.store(inputs + row, token.to(tl.int64))
        tl.store(inputs + rows + row, position)
