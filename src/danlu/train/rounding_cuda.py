"""Rounding at random as one Triton kernel for all parameters. Imported where there is a GPU only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2_048
"""Numbers that a program rounds."""


def round_all(
    targets: Sequence[Tensor], masters: Sequence[Tensor], noise: Tensor, rolls: Sequence[int], greatest: int, kept: int
) -> None:
    """Writes float32 `masters` to `targets` of one format as `rounding.round_into` does, all of them contiguous.

    Args:
        noise: int32 [period].
        rolls: by how many places, less than the period, noise is moved on for each master.
        greatest: above which bits get no noise.
        kept: the bits that stay, as a mask.
    """
    sizes = tuple(master.numel() for master in masters)
    columns = ([x.data_ptr() for x in masters], [x.data_ptr() for x in targets], sizes, rolls)
    table = torch.tensor(columns).to(noise.device, non_blocking=True)
    owners, firsts = _blocks(sizes, noise.device)
    if len(owners):
        _round[(len(owners),)](
            table, owners, firsts, noise, masters[0], targets[0], len(sizes), greatest, kept,
            period=len(noise), block=BLOCK,
        )  # fmt: skip


@cache
def _blocks(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """int32 each: of each block of numbers its tensor, and of each tensor its first block."""
    blocks = torch.tensor([triton.cdiv(size, BLOCK) for size in sizes])
    owners = torch.repeat_interleave(torch.arange(len(sizes)), blocks)
    return owners.int().to(device), (blocks.cumsum(0) - blocks).int().to(device)


@triton.jit
def _round(  # type: ignore[no-untyped-def]
    table, owners, firsts, noise, master, target, tensors, greatest, kept,
    period: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    owner = tl.load(owners + number)
    source = tl.load(table + owner).to(master.dtype)
    out = tl.load(table + tensors + owner).to(target.dtype)
    size = tl.load(table + 2 * tensors + owner)
    roll = tl.load(table + 3 * tensors + owner)
    first = (number - tl.load(firsts + owner)).to(tl.int64) * block
    lanes = tl.arange(0, block)
    inside = first + lanes < size
    bits = tl.load(source + first + lanes, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    spot = ((first + period - roll) % period).to(tl.int32) + lanes
    spot = tl.where(spot < period, spot, spot - period)
    bits = tl.minimum(bits, greatest) + tl.load(noise + spot)
    tl.store(out + first + lanes, (bits & kept).to(tl.float32, bitcast=True).to(target.dtype.element_ty), mask=inside)
