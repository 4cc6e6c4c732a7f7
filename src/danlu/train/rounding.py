"""Float32 weights rounded to fewer bits at random, up or down in proportion to what is nearer.

A model that was saved in bf16 has weights of 8 bits. An update of 1e-6, usual for preferences, is a hundredth of the
step from one such weight of 0.02 to the next: rounded to nearest, most weights that are computed with stay where they
were for scores of updates, and what is saved in bf16 lacks what was learnt. Rounded at random (Gupta et al. 2015, arXiv
1502.02551) one of a hundred weights moves each time, and the loss falls as it does in float32 (docs/log.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

DROPPED = {torch.bfloat16: 16, torch.float16: 13}
"""Bits of a float32's 23 of fraction that a format has not got."""
PERIOD = 65_521
"""Numbers of noise before they begin again: a prime, so that rows of a matrix do not see the same."""
GREATEST = 0x7FFF_0000
"""Noise on bits above these, a NaN's, would turn them into a number's."""


@torch.no_grad()
def round_into(targets: Mapping[str, Tensor], masters: Mapping[str, Tensor], updates: int) -> None:
    """Writes `masters` to `targets` of their names and shapes, contiguous, rounded at random; what needs no rounding
    stays.

    The noise depends on a parameter's name, the count of `updates` and the place alone: it is the same for every
    process and on every device. Formats other than float32 to bf16 or fp16 round to nearest, as do fp16's subnormals.
    """
    _round_all([(targets[name], master, _moved(name, updates)) for name, master in masters.items()])


@torch.no_grad()
def rounded(master: Tensor, dtype: torch.dtype, name: str, updates: int, first: int = 0) -> Tensor:
    """What `round_into` writes for a parameter of that name, as a new tensor; of a part of it that begins at the number
    `first` what it writes there.
    """
    target = torch.empty_like(master, dtype=dtype, memory_format=torch.contiguous_format)
    _round_all([(target, master.contiguous(), (_moved(name, updates) - first) % PERIOD)])
    return target


def _round_all(given: Sequence[tuple[Tensor, Tensor, int]]) -> None:
    """Of targets, masters, and by how many places their noise is moved on."""
    by_format: dict[torch.dtype, list[tuple[Tensor, Tensor, int]]] = {}
    for target, master, roll in given:
        random = master.dtype == torch.float32 and target.dtype in DROPPED
        if random and _in_one_kernel(master.device):
            by_format.setdefault(target.dtype, []).append((target, master, roll))
        else:
            _round(target, master, roll, DROPPED[target.dtype] if random else 0)
    for dtype, some in by_format.items():
        from danlu.train.rounding_cuda import round_all

        targets, masters, rolls = zip(*some, strict=True)
        noise = _noise(masters[0].device, DROPPED[dtype])
        round_all(targets, masters, noise, rolls, GREATEST, -1 << DROPPED[dtype])


def _round(target: Tensor, master: Tensor, roll: int, dropped: int) -> None:
    """In pieces that stay in a core's cache."""
    if not dropped:
        target.copy_(master)
        return
    bits, out = master.view(-1).view(torch.int32), target.view(-1)
    noise = _noise(master.device, dropped).roll(roll)
    for at in range(0, len(bits), PERIOD):
        piece = bits[at : at + PERIOD].clamp(max=GREATEST)
        piece.add_(noise[: len(piece)]).bitwise_and_(-1 << dropped)
        out[at : at + PERIOD].copy_(piece.view(torch.float32))


def _moved(name: str, updates: int) -> int:
    """By how many places the noise of a parameter is moved on."""
    return zlib.crc32(f"{updates}:{name}".encode()) % PERIOD


def _in_one_kernel(device: torch.device) -> bool:
    return device.type == "cuda" and find_spec("triton") is not None


@cache
def _noise(device: torch.device, bits: int) -> Tensor:
    """int32 [PERIOD] of so many bits, of 16 each number at most once: over all places rounding is without bias."""
    drawn = torch.randperm(1 << 16, generator=torch.Generator().manual_seed(0))[:PERIOD]
    return (drawn.int() >> 16 - bits).to(device)
