"""AdamW over the adapter of a QLoRA run of 7B at rank 64: ours in 8 bits, torch's, bitsandbytes' and torchao's.

    python benchmarks/optimizers.py [--steps 20] [--device cuda] [--json FILE] [WAY ...]
    python benchmarks/optimizers.py --shape 7B [--layers 4] …

160 million float32 parameters in 448 matrices, random gradients; or all weights of 7B, of so many of its 32 layers.
GB/s counts what no update can do without: gradient read, weights and moments read and written. Bytes a parameter are
those of moments: on the GPU, and in memory that moves to the host where the GPU runs short. The difference is that of
the way which the weights went from torch's, relative; `first` is the first step, compilation included. Whole runs with
these: benchmarks/lora.py --run qlora "danlu rows=8 optimizer_states=paged" …
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
from danlu.model.decoder import Decoder
from danlu.train.eight_bit import AdamW8bit
from training import SEVEN, TINY

RATE, RANK = 2e-4, 64
WAYS = (
    "danlu, 8-bit",
    "torch, fused",
    "torch, foreach",
    "bitsandbytes, 8-bit",
    "bitsandbytes, paged",
    "bitsandbytes, paged 8-bit",
)
TORCHAO = "torchao, 8-bit"
COLUMNS: list[Column] = [
    ("update ms", "update_ms", ".2f"),
    ("GB/s", "gb_a_second", ".0f"),
    ("first s", "first_s", ".1f"),
    ("bytes", "bytes_a_parameter", ".2f"),
    ("paged", "paged_bytes_a_parameter", ".2f"),
    ("difference", "difference", ".1e"),
]


def sizes(given: argparse.Namespace) -> list[tuple[int, ...]]:
    """Of A and B on q, k, v, o, gate, up and down of each layer; or of all weights."""
    shape = TINY if given.tiny else SEVEN
    width, mlp = shape.hidden_size, shape.mlp_size
    if given.shape == "7B":
        blank = Decoder.empty(shape.model_copy(update={"layers": given.layers or shape.layers}), device="meta")
        return [tuple(parameter.shape) for parameter in blank.parameters()]
    pairs = [(width, width)] * 4 + [(width, mlp)] * 2 + [(mlp, width)]
    return [size for inside, out in pairs * shape.layers for size in ((RANK, inside), (out, RANK))]


def optimizer(way: str, parameters: list[Tensor]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": RATE, "betas": (0.9, 0.999), "weight_decay": 0.0}
    if way == "danlu, 8-bit":
        groups = [{"params": parameters, "weight_decay": 0.0}]
        return AdamW8bit(groups, lr=RATE, betas=settings["betas"], eps=1e-8)
    if way.startswith("torch,"):
        return torch.optim.AdamW(parameters, **settings, **{way.removeprefix("torch, "): True})
    if way == TORCHAO:
        import torchao.optim

        return torchao.optim.AdamW8bit(parameters, **settings)
    import bitsandbytes

    kinds = {"8-bit": "AdamW8bit", "paged": "PagedAdamW32bit", "paged 8-bit": "PagedAdamW8bit"}
    made: torch.optim.Optimizer = getattr(bitsandbytes.optim, kinds[way.removeprefix("bitsandbytes, ")])(
        parameters, **settings
    )
    return made


def trained(way: str, given: argparse.Namespace) -> tuple[list[Tensor], torch.optim.Optimizer, list[float]]:
    """The weights after all steps, what moved them, and the seconds of each step."""
    generator = torch.Generator(given.device).manual_seed(0)
    parameters = [torch.zeros(size, device=given.device, requires_grad=True) for size in sizes(given)]
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
    expected, _, _ = trained("torch, fused", given)
    expected = [weight.cpu() for weight in expected]
    weights, made, seconds = trained(way, given)
    count = sum(weight.numel() for weight in weights)
    held = {True: 0, False: 0}
    for state in made.state.values():
        for value in state.values():
            for tensor in value if isinstance(value, tuple) else [value]:
                if isinstance(tensor, Tensor):
                    held[bool(getattr(tensor, "is_paged", False))] += tensor.untyped_storage().nbytes()
    distance = sum(float((a.cpu() - b).square().sum()) for a, b in zip(weights, expected, strict=True))
    update = statistics.median(seconds[2:])
    return {
        "update_ms": 1e3 * update,
        "gb_a_second": (12 * count + 2 * sum(held.values())) / update / 1e9,
        "first_s": seconds[0],
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
    options.add_argument("--shape", choices=["adapter", "7B"], default="adapter", help="what is updated")
    options.add_argument("--layers", type=int, help="of --shape 7B (default: all)")
    given = options.parse_args()
    show(given, run(given, measure), COLUMNS)


if __name__ == "__main__":
    main()
