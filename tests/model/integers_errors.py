"""Prints, for each case, how far products with weights of 4 and 8 bits lie from those of the weight they stand for.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.integers_cuda import int8_product, pack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = {"several tiles": (4608, 40, 64), "one": (192, 48, 64), "groups of 32": (160, 36, 32)}


def far(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def errors(width: int, count: int, group: int) -> dict[str, float]:
    torch.manual_seed(0)
    levels = torch.randint(16, (count, width // group, group), device=DEVICE)
    scales, middles = (torch.randn(count, width // group, device=DEVICE).bfloat16() for _ in range(2))
    exact = ((levels - 8) * scales.double()[..., None] + middles.double()[..., None]).view(count, width)
    made, bias = pack(levels, scales, middles), torch.randn(count, device=DEVICE)
    found = {"given back": far(made.dequantised(torch.float32), exact)}
    for rows in (1, 5, 16):
        x = torch.randn(rows, 1, width, device=DEVICE)
        got = made(x, bias)
        assert got.shape == (rows, 1, count)
        found[f"{rows} rows"] = far(got, F.linear(x.double(), exact, bias.double()))
    x = torch.randn(1, width, device=DEVICE)
    gate, up = F.linear(x.double(), exact).chunk(2, dim=1)
    found["gated"] = far(made.gated(x), F.silu(gate) * up)
    values, scale = torch.randint(-127, 128, (count, width), dtype=torch.int8, device=DEVICE), scales[:, 0].float()
    found["8 bits"] = far(int8_product(x, values, scale), F.linear(x.double(), values * scale.double()[:, None]))
    return found


if __name__ == "__main__":
    print(json.dumps({name: errors(*case) for name, case in CASES.items()}))
