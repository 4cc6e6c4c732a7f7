"""AdamW over the adapter of a QLoRA run of 7B at rank 64: torch's, bitsandbytes' and torchao's.

    python benchmarks/optimizers.py [--steps 20] [--device cuda] [--json FILE] [WAY ...]

160 million float32 parameters in 448 matrices, random gradients. Bytes a parameter are those of moments: on the GPU,
and in memory that moves to the host where the GPU runs short. The difference is that of the way which the weights went
from torch's, relative. Whole runs with these: benchmarks/lora.py --run qlora "danlu rows=8 optimizer_states=paged" …
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from chain import Column, parser, run, show
from training import SEVEN, TINY

RATE, RANK = 2e-4, 64
WAYS = ("torch, fused", "torch, foreach", "bitsandbytes, 8-bit", "bitsandbytes, paged", "bitsandbytes, paged 8-bit")
TORCHAO = "torchao, 8-bit"
COLUMNS: list[Column] = [
    ("update ms", "update_ms", ".2f"),
    ("bytes", "bytes_a_parameter", ".2f"),
    ("paged", "paged_bytes_a_parameter", ".2f"),
    ("difference", "difference", ".1e"),
]


def sizes(tiny: bool) -> list[tuple[int, int]]:
    """Of A and B on q, k, v, o, gate, up and down of each layer."""
    shape = TINY if tiny else SEVEN
    width, mlp = shape.hidden_size, shape.mlp_size
    pairs = [(width, width)] * 4 + [(width, mlp)] * 2 + [(mlp, width)]
    return [size for inside, out in pairs * shape.layers for size in ((RANK, inside), (out, RANK))]


def optimizer(way: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": RATE, "betas": (0.9, 0.999), "weight_decay": 0.0}
    if way.startswith("torch,"):
        return torch.optim.AdamW(parameters, **settings, **{way.removeprefix("torch, "): True})
    if way == TORCHAO:
        from torchao.optim import AdamW8bit

        return AdamW8bit(parameters, **settings)
    import bitsandbytes

    kinds = {"8-bit": "AdamW8bit", "paged": "PagedAdamW32bit", "paged 8-bit": "PagedAdamW8bit"}
    made: torch.optim.Optimizer = getattr(bitsandbytes.optim, kinds[way.removeprefix("bitsandbytes, ")])(
        parameters, **settings
    )
    return made


def trained(way: str, given: argparse.Namespace) -> tuple[list[Tensor], torch.optim.Optimizer, list[float]]:
    """The weights after all steps, what moved them, and the seconds of each step."""
    generator = torch.Generator(given.device).manual_seed(0)
    parameters = [torch.zeros(size, device=given.device, requires_grad=True) for size in sizes(given.tiny)]
    made, seconds = optimizer(way, parameters), []
    for _ in range(given.steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, device=given.device, generator=generator) * 1e-4
        _wait(given.device)
        start = time.perf_counter()
        made.step()
        _wait(given.device)
        seconds.append(time.perf_counter() - start)
    return [parameter.detach() for parameter in parameters], made, seconds


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    expected, _, _ = trained("torch, foreach", given)
    weights, made, seconds = trained(way, given)
    count = sum(weight.numel() for weight in weights)
    held = {True: 0, False: 0}
    for state in made.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                held[bool(getattr(value, "is_paged", False))] += value.untyped_storage().nbytes()
    distance = sum(float((a - b).square().sum()) for a, b in zip(weights, expected, strict=True))
    return {
        "update_ms": 1e3 * statistics.median(seconds[2:]),
        "bytes_a_parameter": held[False] / count,
        "paged_bytes_a_parameter": held[True] / count,
        "difference": (distance / sum(float(weight.square().sum()) for weight in expected)) ** 0.5,
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    options = parser(__doc__, [*WAYS, *([TORCHAO] if find_spec("torchao") else [])])
    options.add_argument("--steps", type=int, default=20)
    given = options.parse_args()
    show(given, run(given, measure), COLUMNS)


if __name__ == "__main__":
    main()
