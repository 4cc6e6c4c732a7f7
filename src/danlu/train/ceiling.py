"""What this machine's matrix products reach, measured; a step's operations can do no better."""

from __future__ import annotations

import time
from functools import cache

import torch

SIZES = {"cuda": 8192, "cpu": 1024}
SECONDS = {"cuda": 0.5, "cpu": 0.15}
"""How long products are made, after one that pays for the first allocations."""


def ceiling_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large product of two square matrices in `dtype`: the best of those that fit into the time.

    Measured once a process, device, format and number of threads.
    """
    return _measured(device, dtype, torch.get_num_threads())


@cache
def _measured(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    size = SIZES.get(device.type, SIZES["cpu"])
    own = torch.Generator(device).manual_seed(0)  # the run's own random numbers stay where they are
    a, b = (torch.randn(size, size, device=device, generator=own).to(dtype) for _ in range(2))
    best, end = float("inf"), None
    while end is None or time.perf_counter() < end:
        begin = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if end is None:
            end = time.perf_counter() + SECONDS.get(device.type, SECONDS["cpu"])
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
