"""A frozen weight rounded to float8 in one pass on a GPU, out of 16 or 4 bits, as it lies or transposed.

Products in float8 read both sides along what they sum over, so that the one of the backward pass takes W^T, written
anew: one byte a value. Imported where there is a GPU only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.model.float8 import E4M3

_TILE = {"rows": 128, "columns": 128, "num_warps": 8}


def rounded_weight(held: Sequence[Tensor], scale: Tensor, other: int, width: int, across: bool) -> Tensor:
    """W / scale in e4m3 [other, width], or, `across`, W^T / scale of W [width, other].

    Args:
        held: W alone, or what `nf4.NF4` holds of it; both dimensions are multiples of 16.
    """
    rows, columns = (width, other) if across else (other, width)
    weight8 = torch.empty(other, width, dtype=E4M3, device=scale.device)
    grid = (triton.cdiv(columns, _TILE["columns"]), triton.cdiv(rows, _TILE["rows"]))
    kernel, width = (_round, columns) if len(held) == 1 else (_round_nf4, columns // 2)
    kernel[grid](*(tensor.contiguous() for tensor in held), scale, weight8, rows, width, across=across, **_TILE)
    return weight8


@triton.jit
def _round(  # type: ignore[no-untyped-def]
    weight, scale, out, height, width, across: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr
):
    row, column = tl.program_id(1) * rows + tl.arange(0, rows), tl.program_id(0) * columns + tl.arange(0, columns)
    inside = (row < height)[:, None] & (column < width)[None, :]
    values = tl.load(weight + row[:, None].to(tl.int64) * width + column[None, :], mask=inside, other=0.0)
    _store(values.to(tl.float32) * (1 / tl.load(scale)), out, row, column, height, width, across)


@triton.jit
def _round_nf4(  # type: ignore[no-untyped-def]
    packed, scales, coarse, mean, levels, code, scale, out, height, half, across: tl.constexpr, rows: tl.constexpr,
    columns: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(1) * rows + tl.arange(0, rows), tl.program_id(0) * columns + tl.arange(0, columns)
    byte = tl.program_id(0) * (columns // 2) + tl.arange(0, columns // 2)
    run = tl.program_id(0) * (columns // 2) + tl.arange(0, columns // 16) * 8  # bytes of one block: rows are in eights
    within, place = (row < height)[:, None], row[:, None].to(tl.int64) * half
    held = tl.load(packed + place + byte[None, :], mask=within & (byte < half)[None, :], other=0).to(tl.int32)
    values = tl.interleave(tl.load(levels + (held >> 4)), tl.load(levels + (held & 15)))
    block, reach = (place + run[None, :]) // 32, within & (run < half)[None, :]
    level = tl.load(scales + block, mask=reach, other=0).to(tl.int32)
    size = tl.load(code + level) * tl.load(coarse + block // 256, mask=reach, other=0.0) + tl.load(mean)
    values = tl.reshape(values, (rows, columns // 16, 16)) * (size * (1 / tl.load(scale)))[:, :, None]
    _store(tl.reshape(values, (rows, columns)), out, row, column, height, 2 * half, across)


@triton.jit
def _store(values, out, row, column, height, width, across: tl.constexpr):  # type: ignore[no-untyped-def]
    values, lower, right = values.to(out.dtype.element_ty), row < height, column < width
    if across:
        spot = out + column[:, None].to(tl.int64) * height + row[None, :]
        tl.store(spot, tl.trans(values), mask=right[:, None] & lower[None, :])
    else:
        spot = out + row[:, None].to(tl.int64) * width + column[None, :]
        tl.store(spot, values, mask=lower[:, None] & right[None, :])
