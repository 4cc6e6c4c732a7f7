"""Prints, for each case, how far products with weights of 4 and 8 bits lie from those of the weight they stand for.

A program of its own, as Triton decides when it is imported whether its interpreter runs kernels.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model import integers_cuda
from danlu.model.integers_cuda import int8_dequantised, int8_gated, int8_product, pack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FEW, SOME, MANY = (1024, 1024), (1024, 1), (1, 1)
"""From how many columns on a program of one row is one warp, and takes the most rows of the weight."""
BYTES = {
    "8 bits, tiles": (4640, 44, FEW),
    "8 bits, one": (48, 16, FEW),
    "8 bits, the most rows": (160, 44, SOME),
    "8 bits, a warp a program": (1160, 44, MANY),
    "8 bits, no words": (161, 30, MANY),
}
CASES = {"several tiles": (4608, 40, 64), "one": (192, 48, 64), "groups of 32": (160, 36, 32)}
ROWS = {
    "one row, tiles": (4672, 12, 64, FEW),
    "one row, the most rows": (192, 24, 64, SOME),
    "one row, a warp a program": (2112, 12, 64, MANY),
    "one row, groups of 32": (1184, 12, 32, MANY),
}


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
    return found


def errors_of_one_row(width: int, count: int, group: int, programs: tuple[int, int]) -> dict[str, float]:
    """Of great, small and very unlike values, and of those far from 0 on the whole. Results are rounded."""
    integers_cuda._MANY, integers_cuda._SOME = programs
    torch.manual_seed(0)
    levels = torch.randint(16, (count, width // group, group), device=DEVICE)
    scales = (torch.rand(count, width // group, device=DEVICE) / 32).bfloat16()
    made = pack(levels, scales, scales)
    weight = ((levels - 7) * scales.double()[..., None]).view(count, width)
    x = torch.randn(1, width, device=DEVICE)
    outlier = x.clone()
    outlier[0, width // 2] = 3e4
    spread = x * 10 ** torch.linspace(-8, 8, width, device=DEVICE)
    assert not made(0 * x.half(), None).any()
    found = {}
    for name, row in {"great": 1e30 * x, "least": 1e-30 * x, "an outlier": outlier, "spread": spread}.items():
        row = row.bfloat16()
        found[f"bf16, {name}"] = far(made(row, None), F.linear(row.double(), weight))
    for name, row in {"small": 1e-3 * x, "from 3": 3 + x}.items():
        row, bias = row.half(), row[0, :count].half()
        found[name] = far(made(row, bias), F.linear(row.double(), weight, bias.double()))
    x = x.half()
    gate, up = F.linear(x.double(), weight).chunk(2, dim=1)
    got = made.gated(x)
    assert got.shape == (1, count // 2) and got.dtype == x.dtype
    found["gated"] = far(got, F.silu(gate) * up)
    return found


def errors_of_8_bits(width: int, count: int, programs: tuple[int, int]) -> dict[str, float]:
    """Of one row in float16 beyond its rounding, where a few results may fall to the other side."""
    integers_cuda._MANY, integers_cuda._SOME = programs
    torch.manual_seed(0)
    values = torch.randint(-128, 128, (count, width), dtype=torch.int8, device=DEVICE)
    values[:, :2] = torch.tensor([-128, 127])
    scales, bias = torch.rand(count, device=DEVICE) / width, torch.randn(count, device=DEVICE)
    exact = values * scales.double()[:, None]
    x = torch.randn(5, width, device=DEVICE)
    found = {"given back": far(int8_dequantised(values, scales, torch.float32), exact)}
    found |= {"5 rows": far(int8_product(x, values, scales, bias), F.linear(x.double(), exact, bias.double()))}
    # Far from 0 on the whole, where values raised by a constant would lose most.
    x, bias = (3 + torch.randn(1, width, device=DEVICE)).half(), bias.half()
    y = F.linear(x.double(), exact)
    gate, up = y.chunk(2, dim=1)
    found["one row"] = far(int8_product(x, values, scales), y.half())
    found["with a bias"] = far(int8_product(x, values, scales, bias), (y + bias).half())
    got = int8_gated(x, values, scales)
    assert got.shape == (1, count // 2) and got.dtype == x.dtype
    found["gated"] = far(got, (F.silu(gate) * up).half())
    if width % 4 == 0 or DEVICE == "cuda":  # Triton's interpreter takes bf16 for whole numbers in dot products
        x = x.bfloat16()
        y = F.linear(x.double(), exact)
        found["bf16"] = far(int8_product(x, values, scales), y)
    return found


if __name__ == "__main__":
    found = {name: errors(*case) for name, case in CASES.items()}
    found |= {name: errors_of_one_row(*case) for name, case in ROWS.items()}
    print(json.dumps(found | {name: errors_of_8_bits(*case) for name, case in BYTES.items()}))
