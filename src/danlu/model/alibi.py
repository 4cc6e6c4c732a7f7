"""ALiBi: scores fall with distance, by a slope of each head (Press et al. 2022, arXiv 2108.12409).

A score gets slope · (key position - query position), and that is a product: with its slope written before each query
and its position before each key, plain causal attention computes ALiBi. No kernel, mask or cache needs to know of it,
documents that share a row and keys read from a cache included, and no bias [H, T, T] is ever held.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.settings import ModelSettings

EXTRA = 8
"""Dimensions before those of a head, which flash attention wants to be a multiple of eight.

Products are to be exact, and so is a position as two bytes, the high one times 256, up to 65,280: in bf16's 8 bits, and
below fp16's end. A slope is a sum of pieces of few bits, which with a byte's 8 are as many as a sum of products holds.
"""
_BYTE = 256
_BITS = {torch.float32: 12, torch.float64: 26}  # of a slope's pieces, of which there are two; else 8, and four


class Alibi:
    """Slopes and positions in the form in which `lean` puts them before queries and keys; in place of `Rope`."""

    def __init__(self, settings: ModelSettings) -> None:
        # Attention divides scores by the root of the size that it sees, slopes with them.
        self._slopes_KG = (slopes(settings.heads) * math.sqrt(settings.head_size + EXTRA)).view(settings.kv_heads, -1)
        self._on: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __call__(self, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What stands before queries, to be broadcast to [B, T, K, G, 8], and before keys [B, T, 1, 1, 8], in `dtype`.

        The softmax takes no notice of what all keys of a query share, so slope · key position would do. In half
        precision that is all there is. In float32, where it shows that a large score is a coarse one, each product is
        followed by that of the query's own position, which takes it off before anything else is added.
        """
        pieces_KGP = self._pieces(positions_BT.device, dtype)
        low = positions_BT % _BYTE
        bytes_BT2 = torch.stack((positions_BT - low, low), dim=-1).to(dtype)
        if dtype not in _BITS:
            return pieces_KGP.repeat_interleave(2, -1), bytes_BT2.repeat(1, 1, 4)[:, :, None, None]
        slope = pieces_KGP[..., None]
        taken_off = -slope * bytes_BT2[:, :, None, None, None]
        queries = torch.stack((slope.expand_as(taken_off), taken_off), dim=-1).flatten(-3)
        keys = torch.stack((bytes_BT2, torch.ones_like(bytes_BT2)), dim=-1).flatten(-2).repeat(1, 1, 2)
        return queries, keys[:, :, None, None]

    def _pieces(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        if (device, dtype) not in self._on:
            pieces = in_pieces(self._slopes_KG, _BITS[dtype], 2) if dtype in _BITS else in_pieces(self._slopes_KG, 8, 4)
            self._on[device, dtype] = pieces.to(device, dtype)
        return self._on[device, dtype]


def lean(q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, T, K, G, D], k and v [B, T, K, 1, D] with 8 dimensions more, after which attention leans to what is near.

    What is then attended to has eight zeros behind its D values.
    """
    # Attention divides by the root of D + 8, and the model was trained with that of D.
    wider = math.sqrt((q.shape[-1] + EXTRA) / q.shape[-1])
    q = torch.cat((queries.to(q.dtype).expand(*q.shape[:-1], EXTRA), q * wider), dim=-1)
    k = torch.cat((keys.to(k.dtype).expand(*k.shape[:-1], EXTRA), k), dim=-1)
    return q, k, F.pad(v, (0, EXTRA))


def slopes(heads: int) -> Tensor:
    """float64 [H]: 2^(-8/n), 2^(-16/n), ... for n heads if that is a power of two; else those for the power below,
    then every other one of those for the power above.
    """
    below = 2 ** int(math.log2(heads))
    first = [2 ** (-8 * head / below) for head in range(1, below + 1)]
    between = [2 ** (-4 * head / below) for head in range(1, 2 * (heads - below), 2)]
    return torch.tensor(first + between, dtype=torch.float64, device="cpu")


def in_pieces(values: Tensor, bits: int, count: int) -> Tensor:
    """float64 [..., count], each of so many significant bits, whose sums are the values as far as those reach."""
    pieces, left = [], values
    for _ in range(count):
        mantissa, exponent = torch.frexp(left)
        pieces.append(torch.ldexp((mantissa * 2**bits).round(), exponent - bits))
        left = left - pieces[-1]
    return torch.stack(pieces, dim=-1)
