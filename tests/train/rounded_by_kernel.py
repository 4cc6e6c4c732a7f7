"""Prints for which formats the kernel's bits are those of the plain form on a CPU.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch

from danlu.train import rounding
from danlu.train.rounding_cuda import round_all

SIZES = (1, 5_000, 70_000, 0, 2 * rounding.PERIOD, 3)
SPECIAL = [0x7F800000, -0x800000, 0, -(2**31), 0x7F7FFFFF, 1, 0x7FFFFFFF, 0x7FC00000, -0x400000]


def same(dtype: torch.dtype) -> bool:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    masters = {f"w{size}": torch.randn(size, generator=generator) * 0.02 for size in SIZES}
    masters["special"] = torch.tensor(SPECIAL, dtype=torch.int32).view(torch.float32)
    plain = {name: rounding.rounded(master, dtype, name, 7) for name, master in masters.items()}
    targets = [torch.empty_like(value, device=device) for value in plain.values()]
    noise = rounding._noise(device, rounding.DROPPED[dtype])
    rolls = [rounding._moved(name, 7) for name in masters]
    given = [master.to(device) for master in masters.values()]
    round_all(targets, given, noise, rolls, rounding.GREATEST, -1 << rounding.DROPPED[dtype])
    pairs = zip(targets, plain.values(), strict=True)
    return all(torch.equal(_with_one_nan(got.cpu()), _with_one_nan(wanted)) for got, wanted in pairs)


def _with_one_nan(x: torch.Tensor) -> torch.Tensor:
    """The bits of 16-bit numbers, of all NaN the same."""
    return x.view(torch.int16).masked_fill(x.isnan(), -1)


if __name__ == "__main__":
    print(json.dumps({str(dtype): same(dtype) for dtype in rounding.DROPPED}))
