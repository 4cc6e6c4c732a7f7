"""Products of few rows with a weight of 4 or 8 bits, in Triton: memory gives it once, as it is stored.

Imported where there is a GPU only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from danlu.model.attention import HALF
from danlu.model.gate_cuda import swiglu
from danlu.model.launch_cuda import launch
from danlu.model.projection import Quantised
from danlu.model.row_cuda import int4_row_product, int8_row_product, scale_and_middle

SKINNY = 16
"""Rows of x up to which a weight is multiplied as it is stored; for more it is given back first."""

_FEW_ROWS = {"wide": 64, "tile": 8, "num_warps": 4}
"""Rows and groups of a tile, for several rows and 4 bits."""
_BYTES = {"wide": 64, "deep": 128, "num_warps": 4, "num_stages": 4}
"""Rows and columns of a tile, 8 bits."""
_GROUPS, _PLACES = 64, 2048
"""Groups of 4 bits, and values of 8, that a program gives back."""
_FLIPS = 0x4B008080, 0x4B404000
"""Bits of 2^23, and those that make a signed byte one from 0 up, for bytes at bits 0 and 8, and at 7 and 15."""
_MANY, _SOME = 8192, 4096
"""Columns of one row's result from which on a program is one warp, and from which on one of four warps takes the most
rows of the weight. One warp takes the fewest instructions, but only many keep enough of the weight on its way."""


class Int4OnGPU(Quantised):
    """A weight [out, in] in 4 bits with a scale and an offset for each group of a row's values.

    A word of 32 bits holds every (group / 8)th value of its group, the first in its lowest bits.
    """

    words: Tensor
    scales: Tensor

    def __init__(self, words: Tensor, scales: Tensor, group: int) -> None:
        super().__init__()
        self.group = group
        self.register_buffer("words", words)  # int32 [out, in / 8]
        self.register_buffer(
            "scales", scales
        )  # int32 [out, in / group], two of bf16: scale, and what level 8 stands for

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > SKINNY:
            return F.linear(x, self.dequantised(x.dtype), bias)
        if len(rows) == 1 and x.dtype in HALF:
            return self._of_one_row(rows, bias, gated=False).view(*x.shape[:-1], -1)
        count, groups = self.scales.shape
        out = x.new_empty(len(rows), count)
        _product[(triton.cdiv(count, _FEW_ROWS["wide"]),)](
            rows, self.words, self.scales, bias, out, len(rows), count, groups, biased=bias is not None,
            members=self.group // 8, **_FEW_ROWS, **launch(x),
        )  # fmt: skip
        return out.view(*x.shape[:-1], -1)

    def gated(self, x_1D: Tensor) -> Tensor:
        """silu(x G^T) * (x U^T) [1, out / 2], where the weight holds G above U."""
        return self._of_one_row(x_1D, None, gated=True) if x_1D.dtype in HALF else swiglu(self(x_1D, None))

    def _of_one_row(self, x_1D: Tensor, bias: Tensor | None, gated: bool) -> Tensor:
        count, groups = self.scales.shape
        width, lanes = count // (1 + gated), self.group // 16
        (wide, warps), out = _wide_and_warps(width, gated, bits=4), x_1D.new_empty(1, width)
        int4_row_product[(triton.cdiv(width, wide),)](
            x_1D.view(torch.int32), self.words.view(torch.int64), self.scales, bias, out, width, groups, gated=gated,
            biased=bias is not None, lanes=lanes, wide=wide, tile=64 * warps // lanes, native=x_1D.is_cuda,
            num_warps=warps, **launch(x_1D),
        )  # fmt: skip
        return out

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        count, groups = self.scales.shape
        weight = torch.empty(count, groups * self.group, dtype=dtype, device=self.words.device)
        _dequantise[(triton.cdiv(count * groups, _GROUPS),)](
            self.words, self.scales, weight, count * groups, members=self.group // 8, tile=_GROUPS
        )
        return weight


def int8_dequantised(values_CD: Tensor, scales_C: Tensor, dtype: torch.dtype) -> Tensor:
    """values · scales [C, D], computed in float32."""
    rows, depth = values_CD.shape
    weight_CD = torch.empty(rows, depth, dtype=dtype, device=values_CD.device)
    _int8_dequantise[(rows, triton.cdiv(depth, _PLACES))](values_CD, scales_C, weight_CD, depth, tile=_PLACES)
    return weight_CD


def int8_product(x_BD: Tensor, values_CD: Tensor, scales_C: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (values · scales)^T + bias [B, C] of at most SKINNY rows; values int8, scales float32."""
    if _in_words(x_BD):
        return _int8_of_one_row(x_BD, values_CD, scales_C, bias, gated=False)
    rows, depth = x_BD.shape
    out = x_BD.new_empty(rows, len(values_CD))
    _int8_product[(triton.cdiv(len(values_CD), _BYTES["wide"]),)](
        x_BD, values_CD, scales_C, bias, out, rows, len(values_CD), depth, biased=bias is not None, **_BYTES,
        **launch(x_BD),
    )  # fmt: skip
    return out


def int8_gated(x_1D: Tensor, values_CD: Tensor, scales_C: Tensor) -> Tensor:
    """silu(x G^T) * (x U^T) [1, C / 2], where values and scales are those of G above U."""
    if _in_words(x_1D):
        return _int8_of_one_row(x_1D, values_CD, scales_C, None, gated=True)
    return swiglu(int8_product(x_1D, values_CD, scales_C))


def _in_words(x_BD: Tensor) -> bool:
    """Whether four values of the weight and four of x can be read as one number each."""
    return len(x_BD) == 1 and x_BD.dtype in HALF and x_BD.shape[1] % 4 == 0


def _int8_of_one_row(x_1D: Tensor, values_CD: Tensor, scales_C: Tensor, bias: Tensor | None, gated: bool) -> Tensor:
    width = len(values_CD) // (1 + gated)
    (wide, warps), out = _wide_and_warps(width, gated, bits=8), x_1D.new_empty(1, width)
    int8_row_product[(triton.cdiv(width, wide),)](
        x_1D.view(torch.int64), values_CD.view(torch.int32), scales_C, bias, out, width, x_1D.shape[1] // 4, *_FLIPS,
        gated=gated, biased=bias is not None, wide=wide, deep=128 * warps, num_warps=warps, **launch(x_1D),
    )  # fmt: skip
    return out


def _wide_and_warps(columns: int, gated: bool, bits: int) -> tuple[int, int]:
    """Columns and warps of a program for one row, the quickest on an H200 of some seven tried for each.

    A tile is as deep as makes four words a thread and row: words and x lie alike in the threads.
    """
    many, small = columns >= _MANY, bits == 4
    if gated:
        return 4, 1 if many else (2 if small else 4)
    if many:
        return (8 if small else 4), 1
    return (8 if small or columns < _SOME else 16), 4


def pack(levels: Tensor, scales: Tensor, middles: Tensor) -> Int4OnGPU:
    """Of levels 0 … 15 [out, groups, group] and bf16 scales and middles [out, groups]."""
    count, groups, group = levels.shape
    shifts = 4 * torch.arange(8, dtype=torch.int32, device=levels.device)[:, None]
    parts = levels.to(torch.int32).view(count, groups, 8, group // 8) << shifts
    words = parts.sum(2, dtype=torch.int32).view(count, -1)
    pairs = torch.stack((scales, middles), dim=-1).contiguous().view(torch.int32).view(count, groups)
    return Int4OnGPU(words, pairs, group)


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x, words, scales, bias, out, rows, columns, groups, biased: tl.constexpr, members: tl.constexpr,
    wide: tl.constexpr, tile: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """Two rows to sixteen, in the format of x."""
    row, column = tl.arange(0, 16), tl.program_id(0) * wide + tl.arange(0, wide)
    group, member, lane = tl.arange(0, tile), tl.arange(0, members), tl.arange(0, tile * members)
    inside, present = column < columns, (row < rows)[:, None]
    depth = groups * members * 8
    own = words + (column[:, None].to(tl.int64) * groups + group[None, :])[:, :, None] * members + member[None, None, :]
    pairs = scales + column[:, None].to(tl.int64) * groups + group[None, :]
    total = tl.zeros((16, wide), tl.float32)
    if chained:
        gdc_launch_dependents()
        gdc_wait()
    for at in range(0, groups, tile):
        there = inside[:, None] & (at + group < groups)[None, :]
        held = tl.load(own + at * members, mask=there[:, :, None], other=0)
        scale, middle = scale_and_middle(tl.load(pairs + at, mask=there, other=0))
        offset = middle - 8 * scale
        place = (at + lane // members) * (8 * members) + lane % members
        reach = (at + lane // members < groups)[None, :]
        for value in tl.static_range(8):
            piece = tl.load(
                x + row[:, None] * depth + place[None, :] + value * members, mask=present & reach, other=0.0
            )
            level = ((held >> (4 * value)) & 15).to(tl.float32)
            weight = tl.reshape(level * scale[:, :, None] + offset[:, :, None], (wide, tile * members))
            total = tl.dot(piece, tl.trans(weight.to(piece.dtype)), total)
    if biased:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    spot = out + row[:, None] * columns + column[None, :]
    tl.store(spot, total.to(out.dtype.element_ty), mask=present & inside[None, :])


@triton.jit
def _dequantise(words, scales, weight, groups, members: tl.constexpr, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    first = tl.program_id(0).to(tl.int64) * tile
    place = tl.arange(0, tile * 8 * members)  # in their order, so that a warp's stores make whole lines
    group, value, member = place // (8 * members), place // members % 8, place % members
    there = group < groups - first
    held = tl.load(words + first * members + (group * members + member), mask=there, other=0)
    scale, middle = scale_and_middle(tl.load(scales + first + group, mask=there, other=0))
    level = ((held >> (4 * value)) & 15).to(tl.float32) * scale + (middle - 8 * scale)
    tl.store(weight + first * (8 * members) + place, level.to(weight.dtype.element_ty), mask=there)


@triton.jit
def _int8_dequantise(values, scales, weight, depth, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    row, place = tl.program_id(0), tl.program_id(1) * tile + tl.arange(0, tile)
    own, there = row.to(tl.int64) * depth, place < depth
    value = tl.load(values + own + place, mask=there, other=0).to(tl.float32) * tl.load(scales + row)
    tl.store(weight + own + place, value.to(weight.dtype.element_ty), mask=there)


@triton.jit
def _int8_product(  # type: ignore[no-untyped-def]
    x, values, scales, bias, out, rows, columns, depth, biased: tl.constexpr, wide: tl.constexpr, deep: tl.constexpr,
    chained: tl.constexpr,
):  # fmt: skip
    row, column = tl.arange(0, 16), tl.program_id(0) * wide + tl.arange(0, wide)
    present, inside = (row < rows)[:, None], column < columns
    own = values + column[:, None].to(tl.int64) * depth
    scale = tl.load(scales + column, mask=inside, other=0.0)
    total = tl.zeros((16, wide), tl.float32)
    if chained:
        gdc_launch_dependents()
        gdc_wait()
    for at in range(0, depth, deep):
        lane = at + tl.arange(0, deep)
        reach = (lane < depth)[None, :]
        piece = tl.load(x + row[:, None] * depth + lane[None, :], mask=present & reach, other=0.0)
        tile = tl.load(own + lane[None, :], mask=inside[:, None] & reach, other=0)
        total = tl.dot(piece, tl.trans(tile.to(piece.dtype)), total)
    total *= scale[None, :]
    if biased:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    spot = out + row[:, None] * columns + column[None, :]
    tl.store(spot, total.to(out.dtype.element_ty), mask=present & inside[None, :])
