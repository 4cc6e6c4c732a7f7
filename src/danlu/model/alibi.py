"""ALiBi: scores fall with distance, by a slope of each head (Press et al. 2022, arXiv 2108.12409).

A score gets slope · (key position - query position). The softmax takes no notice of what all keys of a query share, so
slope · key position does as well, and that is a product: with its slope written behind each query and its position
behind each key, plain causal attention computes ALiBi. No kernel, mask or cache needs to know of it, documents that
share a row and keys read from a cache included, and no bias [H, T, T] is ever held.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.settings import ModelSettings

_BYTE = 256
_PIECES = 4
EXTRA = 2 * _PIECES
"""Dimensions behind those of a head: four pieces of its slope, for the high and for the low byte of a position.

bf16 holds 8 bits. Position = 256 · high + low is exact in it up to 65,280, which is fp16's end too; four pieces hold
32 bits of a slope, and attention sums the products in float32. Eight more keep the size of a head a multiple of eight,
which flash attention asks for.
"""


class Alibi:
    """Slopes and positions in the form in which `lean` puts them behind queries and keys; in place of `Rope`."""

    def __init__(self, settings: ModelSettings) -> None:
        # Attention divides scores by the root of the size that it sees, slopes with them.
        own = slopes(settings.heads) * math.sqrt(settings.head_size + EXTRA)
        self._slopes_KGE = _in_pieces(own).repeat(1, 2).view(settings.kv_heads, -1, EXTRA).float()
        self._on: dict[torch.device, Tensor] = {}

    def __call__(self, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Slopes [K, G, 8] and positions [B, T, 1, 1, 8], in `dtype`."""
        device = positions_BT.device
        if device not in self._on:
            self._on[device] = self._slopes_KGE.to(device)
        low = positions_BT % _BYTE
        bytes_BT2 = torch.stack((positions_BT - low, low), dim=-1)
        places = bytes_BT2.repeat_interleave(_PIECES, -1)[:, :, None, None].to(dtype)
        return self._on[device].to(dtype), places


def lean(q: Tensor, k: Tensor, v: Tensor, slopes_KGE: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, T, K, G, D], k and v [B, T, K, 1, D] with 8 dimensions more, after which attention leans to what is near.

    What is then attended to has eight zeros behind its D values.
    """
    # Attention divides by the root of D + 8, and the model was trained with that of D.
    wider = math.sqrt((q.shape[-1] + EXTRA) / q.shape[-1])
    q = torch.cat((q * wider, slopes_KGE.to(q.dtype).expand(*q.shape[:-1], EXTRA)), dim=-1)
    k = torch.cat((k, places.to(k.dtype).expand(*k.shape[:-1], EXTRA)), dim=-1)
    return q, k, F.pad(v, (0, EXTRA))


def slopes(heads: int) -> Tensor:
    """float64 [H]: 2^(-8/n), 2^(-16/n), ... for n heads if that is a power of two; else those for the power below,
    then every other one of those for the power above.
    """
    below = 2 ** int(math.log2(heads))
    first = [2 ** (-8 * head / below) for head in range(1, below + 1)]
    between = [2 ** (-4 * head / below) for head in range(1, 2 * (heads - below), 2)]
    return torch.tensor(first + between, dtype=torch.float64, device="cpu")


def _in_pieces(values: Tensor) -> Tensor:
    """float64 [..., 4], each exact in bf16, with sums equal to the values to 32 bits."""
    pieces, left = [], values
    for _ in range(_PIECES):
        pieces.append(left.to(torch.bfloat16).double())
        left = left - pieces[-1]
    return torch.stack(pieces, dim=-1)
