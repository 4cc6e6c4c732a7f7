"""Kernels of one row of x with a weight of 4 or 8 bits: weights are read as words while the kernel before still runs.

4 bits: masked out of a word, the levels of two values are two float16 as they are, of 2^-24 or 2^-20 each (below the
least normal number), and one instruction multiplies both by two of x and adds them to two sums. So 16 values cost 8 to
mask, 2 to move and 8 to multiply; with all else 2.7 a value for 8 rows of the weight and one warp, counted. x is raised
by a power of two first, so that its greatest of 32 values nears the greatest float16 (from 2^-100 to 2^118; no value of
bf16 loses bits that matter beside that one). A sum in float16 is of 8 products and starts at minus half of what level 8
would give, so that it stays small: results are 0.001 off, root mean square, where bf16 rounds by 0.0017. All else is
added in float32.
8 bits: each value is set into the fraction of a float from 2^23 up, of which one more instruction makes the value,
exactly: 3.25 a value, and with loads 4, counted.
Imported where there is a GPU only.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_IN_HALVES = tl.constexpr("""{
    .reg .b16 low, high;
    cvt.rn.f16.f32 low, $1;
    cvt.rn.f16.f32 high, $2;
    mov.b32 $0, {low, high};
}""")
_SUM_OF_16 = tl.constexpr("""{
    .reg .b32 first, second, levels, sums;
    .reg .b16 low, high;
    .reg .f32 one, other;
    mov.b64 {first, second}, $1;
    and.b32 levels, first, 0x000f000f;
    fma.rn.f16x2 sums, levels, $3, $2;
    and.b32 levels, first, 0x00f000f0;
    fma.rn.f16x2 sums, levels, $4, sums;
    shr.u32 first, first, 8;
    and.b32 levels, first, 0x000f000f;
    fma.rn.f16x2 sums, levels, $5, sums;
    and.b32 levels, first, 0x00f000f0;
    fma.rn.f16x2 sums, levels, $6, sums;
    and.b32 levels, second, 0x000f000f;
    fma.rn.f16x2 sums, levels, $7, sums;
    and.b32 levels, second, 0x00f000f0;
    fma.rn.f16x2 sums, levels, $8, sums;
    shr.u32 second, second, 8;
    and.b32 levels, second, 0x000f000f;
    fma.rn.f16x2 sums, levels, $9, sums;
    and.b32 levels, second, 0x00f000f0;
    fma.rn.f16x2 sums, levels, $10, sums;
    mov.b32 {low, high}, sums;
    cvt.f32.f16 one, low;
    cvt.f32.f16 other, high;
    add.f32 $0, one, other;
}""")


@triton.jit
def scale_and_middle(pair):  # type: ignore[no-untyped-def]
    return (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _of_four(packed, value: tl.constexpr, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """Value 0 … 3 of each four of x that 64 bits hold, or 0 … 1 of two."""
    pair = (packed if value < 2 else packed >> 32).to(tl.int32)
    if dtype == tl.bfloat16:
        return (pair << 16 if value % 2 == 0 else pair & -65536).to(tl.float32, bitcast=True)
    return (pair if value % 2 == 0 else pair >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _in_halves(low, high, native: tl.constexpr):  # type: ignore[no-untyped-def]
    """Two float32 as float16 in one word."""
    if native:
        return tl.inline_asm_elementwise(_IN_HALVES, "=r,r,r", [low, high], tl.int32, is_pure=True, pack=1)
    bits = high.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) << 16
    return bits | (low.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF)


@triton.jit
def _by_two(values):  # type: ignore[no-untyped-def]
    """[A, B, C] as [A, B, C / 2, 2]: the two are a thread's own."""
    return tl.reshape(values, (values.shape[0], values.shape[1], values.shape[2] // 2, 2))


@triton.jit
def _raised_pairs(x, present, lanes: tl.constexpr, dtype: tl.constexpr, native: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of x at eight places each: pairs of float16 to start with and to multiply a word's levels by, what to multiply
    the sums by then, and the sum of x."""
    values = ()
    for place in tl.static_range(8):
        two = tl.load(x + place * lanes, mask=present, other=0)
        values += (_of_four(two, 0, dtype), _of_four(two, 1, dtype))  # type: ignore[assignment]
    most, low, high = tl.abs(values[0]), values[0], values[8]  # type: ignore[misc]
    for at in tl.static_range(1, 16):
        most = tl.maximum(most, tl.abs(values[at]))
        if at < 8:
            low += values[at]
        elif at > 8:
            high += values[at]
    exponent = tl.maximum(tl.max(_by_two(most), 3), 2.0**-100).to(tl.int32, bitcast=True) & 0x7F800000
    raise_by = (0x7F800000 - exponent).to(tl.float32, bitcast=True) * 2.0**14
    raise_by = tl.reshape(raise_by[:, :, :, None].broadcast_to(_by_two(low).shape), low.shape)
    start = raise_by * -(2.0**-22)
    pairs = (_in_halves(low * start, high * start, native),)
    for word in tl.static_range(2):
        for place in tl.static_range(4):
            by = raise_by if place % 2 == 0 else raise_by * 0.0625
            two = _in_halves(values[2 * place + word] * by, values[2 * place + word + 8] * by, native)
            pairs += (two,)  # type: ignore[assignment]
    return pairs, exponent.to(tl.float32, bitcast=True) * 512, tl.sum(_by_two(low + high), 3)


@triton.jit
def _sums_of_32(words, pairs, native: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of each two elements the start and 2^-24 times levels times x, added up."""
    if native:
        products = tl.inline_asm_elementwise(
            _SUM_OF_16, "=f,l,r,r,r,r,r,r,r,r,r",
            [words, pairs[0], pairs[1], pairs[2], pairs[3], pairs[4], pairs[5], pairs[6], pairs[7], pairs[8]],
            tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        products = tl.zeros(words.shape, tl.float32)
        for half in tl.static_range(2):
            total = _of_four(pairs[0], half, tl.float16)
            for at in tl.static_range(8):
                level = (words >> (32 * (at // 4) + 16 * half + 4 * (at % 4))) & 15
                unit = 2.0**-24 if at % 2 == 0 else 2.0**-20
                total += level.to(tl.float32) * unit * _of_four(pairs[1 + at], half, tl.float16)
                total = total.to(tl.float16).to(tl.float32)
            products += total
    return tl.sum(_by_two(products), 3)


@triton.jit
def int4_row_product(  # type: ignore[no-untyped-def]
    x, words, scales, bias, out, columns, groups, gated: tl.constexpr, biased: tl.constexpr, lanes: tl.constexpr,
    wide: tl.constexpr, tile: tl.constexpr, native: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """The first tile of weights is on its way before the kernel before this one has ended.

    x is read as pairs, words two at a time; lanes are a group's. Native: on a GPU, not by Triton's interpreter.
    """
    column, group, lane = tl.program_id(0) * wide + tl.arange(0, wide), tl.arange(0, tile), tl.arange(0, lanes)
    inside = (column < columns)[None, :]
    spot = column[None, :].to(tl.int64) * groups + group[:, None]
    own, pairs = words + spot[:, :, None] * lanes + lane[None, None, :], scales + spot
    upper = columns.to(tl.int64) * groups
    if chained:
        gdc_launch_dependents()
    there = inside & (group < groups)[:, None]
    held = tl.load(own, mask=there[:, :, None], other=0)
    pair = tl.load(pairs, mask=there, other=0)
    risen_held, risen_pair = held, pair
    if gated:
        risen_held = tl.load(own + upper * lanes, mask=there[:, :, None], other=0)
        risen_pair = tl.load(pairs + upper, mask=there, other=0)
    if chained:
        gdc_wait()
    sums = tl.zeros((tile, wide, lanes // 2), tl.float32)
    risen = tl.zeros((tile, wide, lanes // 2), tl.float32)
    for at in range(0, groups, tile):
        present = (at + group < groups)[:, None]
        if at > 0:
            there = inside & present
            held = tl.load(own + at * lanes, mask=there[:, :, None], other=0)
            pair = tl.load(pairs + at, mask=there, other=0)
            if gated:
                risen_held = tl.load(own + (upper + at) * lanes, mask=there[:, :, None], other=0)
                risen_pair = tl.load(pairs + upper + at, mask=there, other=0)
        place = (at + group)[:, None, None] * (8 * lanes) + lane[None, None, :]
        pieces, unit, known = _raised_pairs(x + place, present[:, :, None], lanes, out.dtype.element_ty, native)
        scale, middle = scale_and_middle(pair)
        sums += scale[:, :, None] * (_sums_of_32(held, pieces, native) * unit - 4 * known)
        sums += middle[:, :, None] * known
        if gated:
            scale, middle = scale_and_middle(risen_pair)
            risen += scale[:, :, None] * (_sums_of_32(risen_held, pieces, native) * unit - 4 * known)
            risen += middle[:, :, None] * known
    y = tl.sum(tl.sum(sums, 2), 0)
    if gated:
        y = y * tl.sigmoid(y) * tl.sum(tl.sum(risen, 2), 0)
    if biased:
        y += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    tl.store(out + column, y.to(out.dtype.element_ty), mask=column < columns)


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
def int8_row_product(  # type: ignore[no-untyped-def]
    x, words, scales, bias, out, columns, depth, low, high, gated: tl.constexpr, biased: tl.constexpr,
    wide: tl.constexpr, deep: tl.constexpr, chained: tl.constexpr,
):  # fmt: skip
    """As `int4_row_product`; depth and deep count words, of four values."""
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
