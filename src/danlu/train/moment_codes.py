"""AdamW's moments in 8 bits a value: blocks of 256 with a scale each, in the dynamic map of Dettmers et al. 2021
(arXiv 2110.02861).

The map's levels lie on seven straight lines, one for each power of ten, so codes and values come from each other by
arithmetic alone, which a compiler fuses with all around it; a table it would not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256
FLOOR = 2.0**-100
"""The least scale of a block, so that all of its values are normal numbers; far below what moves a weight."""
ABOVE = 1 + 2.0**-19
"""What a block's greatest value is scaled to: not below the last level by any rounding."""

ONE = 0x3F800000
"""The bits of 1.0. What is not negative is compared by its bits: a kernel that compares floats asks first whether these
are numbers, at three times the instructions."""

Lines = list[tuple[float, float]]
"""(slope, rise): a value in [0, 1] lies at slope · value + rise on the ladder of levels, by the lowest of the lines."""


def _lines(cells: int, first: int) -> Lines:
    """Of the map whose lowest power of ten has so many cells, and each power twice those of the one below."""
    each = [(cells * 2**power, 10.0 ** (6 - power)) for power in range(7)]
    return [(count / 0.9 * scale, count * 8 / 9 + first) for count, scale in each]


SIGNED, UNSIGNED = _lines(1, 0), _lines(2, -1)


def values_of(levels: Tensor, lines: Lines) -> Tensor:
    """The middle of each level's cell, float32; 0 for level 0, 1 for the last level."""
    on_lines = ((levels * (1 / slope) + (0.5 - rise) / slope).view(torch.int32) for slope, rise in lines)
    return reduce(torch.maximum, on_lines).clamp(0, ONE).view(torch.float32)


def levels_of(values: Tensor, lines: Lines) -> Tensor:
    """The level in whose cell each of the values in [0, 1] lies, plus a fraction. float32.

    Cells end at powers of ten, where the nearest level of two decades may be the other; no value is further from its
    level than half the cell.
    """
    on_lines = ((values * slope + rise).view(torch.int32) for slope, rise in lines)
    return reduce(torch.minimum, on_lines).view(torch.float32)


def greatest_of(values: Tensor) -> Tensor:
    """Of each row [N, 256], and at least FLOOR."""
    return values.view(torch.int32).amax(1).view(torch.float32).clamp(min=FLOOR)


def blocks_of(flat: Tensor) -> Tensor:
    """[N, 256] of [n]: a view where blocks are full, else a copy that ends in zeros."""
    return (F.pad(flat, (0, -len(flat) % BLOCK)) if len(flat) % BLOCK else flat).view(-1, BLOCK)


class Codes(NamedTuple):
    """A moment of a parameter in blocks [N, 256]: uint8 codes and a float32 scale [N] each."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def zeros(cls, count: int, device: torch.device) -> Codes:
        blocks = -(-count // BLOCK)
        codes = torch.zeros(blocks, BLOCK, dtype=torch.uint8, device=device)
        return cls(codes, torch.zeros(blocks, device=device))

    def rows(self, start: int, end: int) -> Codes:
        return Codes(self.codes[start:end], self.scales[start:end])


def read_signed(held: Codes) -> Tensor:
    """float32 [N, 256] of codes 0 to 255: level -127 to 128 of the block's greatest value, sign and all."""
    levels = held.codes.float() - 127
    return torch.copysign(values_of(levels.abs(), SIGNED), levels) * held.scales[:, None]


def write_signed(held: Codes, values: Tensor) -> None:
    """The reverse. The scale has the sign of the greatest value: the map reaches 1 but not -1."""
    top, bottom = greatest_of(values), greatest_of(-values)
    scales = torch.where(top >= bottom, top, -bottom)
    scaled = values * (ABOVE / scales)[:, None]
    levels = torch.copysign(levels_of(scaled.abs(), SIGNED), scaled).to(torch.int32)
    held.codes.copy_((levels + 127).clamp(min=0))
    held.scales.copy_(scales)


def read_unsigned(held: Codes) -> Tensor:
    """float32 [N, 256] of codes that are levels 0 to 255 of the block's greatest value."""
    return values_of(held.codes.float(), UNSIGNED) * held.scales[:, None]


def write_unsigned(held: Codes, values: Tensor) -> None:
    """The reverse, with no level 0: a second moment rounded to nothing would let its weight jump (arXiv 2309.01507)."""
    scales = greatest_of(values)
    levels = levels_of(values * (ABOVE / scales)[:, None], UNSIGNED).to(torch.int32)
    held.codes.copy_(levels.clamp(min=1))
    held.scales.copy_(scales)


class Form(NamedTuple):
    read: Callable[[Codes], Tensor]
    write: Callable[[Codes, Tensor], None]


FORMS = {"exp_avg": Form(read_signed, write_signed), "exp_avg_sq": Form(read_unsigned, write_unsigned)}
"""Of each moment, by torch's names."""
