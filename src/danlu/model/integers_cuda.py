"""Products of few rows with a weight of 4 or 8 bits, in Triton: memory gives it once, as it is stored.

One row and 4 bits: the bits of a level are put into the fraction of a float between 1 and 2, for which nothing has to
be converted: q at bit b of the fraction is 1 + q 2^(b - 23), and x times it, times 2^(23 - b), is x q + 2^(23 - b) x.
What is too much is known from x alone and subtracted once a group. A value then costs 3.4 instructions, counted.
One row and 8 bits: four values are read as one word, and each set into the fraction of a float from 2^23 up, of which
one more instruction makes the value, exactly: 3.25 a value, and with loads 4, counted.
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

SKINNY = 16
"""Rows of x up to which a weight is multiplied as it is stored; for more it is given back first."""

_ONE = 0x3F800000  # given, not written down, as an instruction that masks and adds bits takes one constant only
_WIDE, _WARPS = 8, 4
"""Rows of the weight and warps of a program, for one row and 4 bits. Its tile is as deep as makes four words a thread:
words and x then lie alike in the threads, and each takes its values of x once for all rows of the weight."""
_FEW_ROWS = {"wide": 64, "tile": 8, "num_warps": 4}
"""Rows and groups of a tile, for several rows and 4 bits."""
_BYTES = {"wide": 64, "deep": 128, "num_warps": 4, "num_stages": 4}
"""Rows and columns of a tile, 8 bits."""
_FLIPS = 0x4B008080, 0x4B404000
"""Bits of 2^23, and those that make a signed byte one from 0 up, for bytes at bits 0 and 8, and at 7 and 15."""
_BYTE_ROWS, _MANY = 8, 1024
"""Rows of the weight of a program, for one row and 8 bits, and from how many programs on each is one warp. That takes
the fewest instructions, 4.3 a value of rows of 4,096 with all around the loop, where four warps take 5.3; but only many
programs keep enough of the weight on its way. A tile is as deep as makes four words a thread and row."""


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
        if len(rows) == 1:
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
        return self._of_one_row(x_1D, None, gated=True)

    def _of_one_row(self, x_1D: Tensor, bias: Tensor | None, gated: bool) -> Tensor:
        count, groups = self.scales.shape
        width, members = count // (1 + gated), self.group // 8
        out = x_1D.new_empty(1, width)
        _row_product[(triton.cdiv(width, _WIDE),)](
            x_1D, self.words, self.scales, bias, out, width, groups, _ONE, gated=gated, biased=bias is not None,
            members=members, wide=_WIDE, tile=128 * _WARPS // members, num_warps=_WARPS, **launch(x_1D),
        )  # fmt: skip
        return out

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        count, groups = self.scales.shape
        weight = torch.empty(count, groups * self.group, dtype=dtype, device=self.words.device)
        _dequantise[(triton.cdiv(count, 4), triton.cdiv(groups, 32))](
            self.words, self.scales, weight, count, groups, members=self.group // 8, wide=4, tile=32, num_warps=4
        )
        return weight


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
    width, wide = len(values_CD) // (1 + gated), _BYTE_ROWS // (1 + gated)
    programs, out = triton.cdiv(width, wide), x_1D.new_empty(1, width)
    warps = 1 if programs >= _MANY else 4
    _int8_row_product[(programs,)](
        x_1D.view(torch.int64), values_CD.view(torch.int32), scales_C, bias, out, width, x_1D.shape[1] // 4, *_FLIPS,
        gated=gated, biased=bias is not None, wide=wide, deep=128 * warps, num_warps=warps, **launch(x_1D),
    )  # fmt: skip
    return out


def pack(levels: Tensor, scales: Tensor, middles: Tensor) -> Int4OnGPU:
    """Of levels 0 … 15 [out, groups, group] and bf16 scales and middles [out, groups]."""
    count, groups, group = levels.shape
    shifts = 4 * torch.arange(8, dtype=torch.int32, device=levels.device)[:, None]
    parts = levels.to(torch.int32).view(count, groups, 8, group // 8) << shifts
    words = parts.sum(2, dtype=torch.int32).view(count, -1)
    pairs = torch.stack((scales, middles), dim=-1).contiguous().view(torch.int32).view(count, groups)
    return Int4OnGPU(words, pairs, group)


@triton.jit
def _scale_and_middle(pair):  # type: ignore[no-untyped-def]
    return (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _bits(words, value: tl.constexpr, one):  # type: ignore[no-untyped-def]
    """1 + q / 2^(4, 8 or 12) for the level q at place `value` of each word; `one` are the bits of 1.0."""
    moved = words << 15 if value < 2 else (words << 3 if value < 5 else words >> 9)
    return ((moved & (15 << (11 + 4 * ((value + 1) % 3)))) | one).to(tl.float32, bitcast=True)


@triton.jit
def _raised(x, value: tl.constexpr):  # type: ignore[no-untyped-def]
    """x times what `_bits` divides the level at the place `value` by."""
    return x * (256.0 if value % 3 == 0 else (16.0 if value % 3 == 1 else 4096.0))


@triton.jit
def _row_product(  # type: ignore[no-untyped-def]
    x, words, scales, bias, out, columns, groups, one, gated: tl.constexpr, biased: tl.constexpr,
    members: tl.constexpr, wide: tl.constexpr, tile: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """One row: the first tile of weights is on its way before the kernel before this one has ended."""
    column, group, member = tl.program_id(0) * wide + tl.arange(0, wide), tl.arange(0, tile), tl.arange(0, members)
    inside = (column < columns)[None, :]
    spot = column[None, :].to(tl.int64) * groups + group[:, None]
    own, pairs = words + spot[:, :, None] * members + member[None, None, :], scales + spot
    upper = columns.to(tl.int64) * groups
    if chained:
        gdc_launch_dependents()
    there = inside & (group < groups)[:, None]
    held = tl.load(own, mask=there[:, :, None], other=0)
    pair = tl.load(pairs, mask=there, other=0)
    risen_held, risen_pair = held, pair
    if gated:
        risen_held = tl.load(own + upper * members, mask=there[:, :, None], other=0)
        risen_pair = tl.load(pairs + upper, mask=there, other=0)
    if chained:
        gdc_wait()
    sums = tl.zeros((tile, wide), tl.float32)
    risen = tl.zeros((tile, wide), tl.float32)
    for at in range(0, groups, tile):
        if at > 0:
            there = inside & (at + group < groups)[:, None]
            held = tl.load(own + at * members, mask=there[:, :, None], other=0)
            pair = tl.load(pairs + at, mask=there, other=0)
            if gated:
                risen_held = tl.load(own + (upper + at) * members, mask=there[:, :, None], other=0)
                risen_pair = tl.load(pairs + upper + at, mask=there, other=0)
        place = (at + group)[:, None, None] * (8 * members) + member[None, None, :]
        present = (at + group < groups)[:, None, None]
        products = tl.zeros((tile, wide, members), tl.float32)
        risen_products = tl.zeros((tile, wide, members), tl.float32)
        plain = tl.zeros((tile, 1, members), tl.float32)
        too_much = tl.zeros((tile, 1, members), tl.float32)
        for value in tl.static_range(8):
            piece = tl.load(x + place + value * members, mask=present, other=0.0).to(tl.float32)
            plain += piece
            piece = _raised(piece, value)
            too_much += piece
            products += piece * _bits(held, value, one)
            if gated:
                risen_products += piece * _bits(risen_held, value, one)
        off, known = tl.sum(too_much + 8 * plain, 2), tl.sum(plain, 2)
        scale, middle = _scale_and_middle(pair)
        sums += scale * (tl.sum(products, 2) - off) + middle * known
        if gated:
            scale, middle = _scale_and_middle(risen_pair)
            risen += scale * (tl.sum(risen_products, 2) - off) + middle * known
    y = tl.sum(sums, 0)
    if gated:
        y = y * tl.sigmoid(y) * tl.sum(risen, 0)
    if biased:
        y += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    tl.store(out + column, y.to(out.dtype.element_ty), mask=column < columns)


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
        scale, middle = _scale_and_middle(tl.load(pairs + at, mask=there, other=0))
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
def _dequantise(words, scales, weight, columns, groups, members: tl.constexpr, wide: tl.constexpr, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    column, group = tl.program_id(0) * wide + tl.arange(0, wide), tl.program_id(1) * tile + tl.arange(0, tile)
    member = tl.arange(0, members)
    there = (column < columns)[:, None] & (group < groups)[None, :]
    spot = column[:, None].to(tl.int64) * groups + group[None, :]
    held = tl.load(words + spot[:, :, None] * members + member[None, None, :], mask=there[:, :, None], other=0)
    scale, middle = _scale_and_middle(tl.load(scales + spot, mask=there, other=0))
    offset = middle - 8 * scale
    place = weight + spot[:, :, None] * (8 * members) + member[None, None, :]
    for value in tl.static_range(8):
        level = ((held >> (4 * value)) & 15).to(tl.float32) * scale[:, :, None] + offset[:, :, None]
        tl.store(place + value * members, level.to(weight.dtype.element_ty), mask=there[:, :, None])


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


@triton.jit
def _signed(words, value: tl.constexpr, low, high):  # type: ignore[no-untyped-def]
    """The byte `value` of each word as float32; 2^23, 128 and the other byte's bit are taken off what is put together.

    Not moved by whole bytes, as the compiler then reads bytes one by one, and moves each word twice.
    """
    if value == 0:
        return ((words & 0xFF) ^ low).to(tl.float32, bitcast=True) - (8388608.0 + 32768.0 + 128.0)
    if value == 1:
        return ((words & 0xFF00) ^ low).to(tl.float32, bitcast=True) * (1 / 256) - (32768.0 + 128.0 + 0.5)
    if value == 2:
        return (((words >> 9) & 0x7F80) ^ high).to(tl.float32, bitcast=True) * (1 / 128) - (65536.0 + 32768.0 + 128.0)
    return (((words >> 9) & 0x7F8000) ^ high).to(tl.float32, bitcast=True) * (1 / 32768) - (256.0 + 128.0 + 0.5)


@triton.jit
def _of_four(packed, value: tl.constexpr, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """Value 0 … 3 of each four of x that 64 bits hold."""
    pair = (packed if value < 2 else packed >> 32).to(tl.int32)
    if dtype == tl.bfloat16:
        return (pair << 16 if value % 2 == 0 else pair & -65536).to(tl.float32, bitcast=True)
    return (pair if value % 2 == 0 else pair >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _int8_row_product(  # type: ignore[no-untyped-def]
    x, words, scales, bias, out, columns, depth, low, high, gated: tl.constexpr, biased: tl.constexpr,
    wide: tl.constexpr, deep: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """One row, as `_row_product`; depth and deep count words, of four values."""
    column, lane = tl.program_id(0) * wide + tl.arange(0, wide), tl.arange(0, deep)
    inside = column < columns
    own = words + column[:, None].to(tl.int64) * depth + lane[None, :]
    upper = own + columns.to(tl.int64) * depth
    if chained:
        gdc_launch_dependents()
    there = inside[:, None] & (lane < depth)[None, :]
    held = tl.load(own, mask=there, other=0)
    scale = tl.load(scales + column, mask=inside, other=0.0)
    risen_held, risen_scale = held, scale
    if gated:
        risen_held = tl.load(upper, mask=there, other=0)
        risen_scale = tl.load(scales + columns + column, mask=inside, other=0.0)
    if chained:
        gdc_wait()
    sums = tl.zeros((wide, deep), tl.float32)
    risen = tl.zeros((wide, deep), tl.float32)
    for at in range(0, depth, deep):
        reach = at + lane < depth
        if at > 0:
            there = inside[:, None] & reach[None, :]
            held = tl.load(own + at, mask=there, other=0)
            if gated:
                risen_held = tl.load(upper + at, mask=there, other=0)
        four = tl.load(x + at + lane, mask=reach, other=0)[None, :]
        for value in tl.static_range(4):
            piece = _of_four(four, value, out.dtype.element_ty)
            sums += piece * _signed(held, value, low, high)
            if gated:
                risen += piece * _signed(risen_held, value, low, high)
    y = tl.sum(sums, 1) * scale
    if gated:
        y = y * tl.sigmoid(y) * (tl.sum(risen, 1) * risen_scale)
    if biased:
        y += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + column, y.to(out.dtype.element_ty), mask=inside)
