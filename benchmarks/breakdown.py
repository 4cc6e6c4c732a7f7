"""Where the microseconds of a training step go: GPU time a token by kind of kernel, and this machine's ceiling.

    python benchmarks/breakdown.py [1B|7B] [KEY=VALUE ...]      settings of TrainSettings, such as rows=48 batch=96
    torchrun --nproc-per-node=2 benchmarks/breakdown.py ...     several GPUs: times of the first one

Same shape, data and step as training.py. The floor is the time of the step's matrix products at the rate that a large
one reaches on this machine: for 15 ms, and for 1.6 s, after which its power limit has lowered the clock, as it does
within a step. Communication is exposed while nothing else runs on the GPU.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from danlu.model.settings import parameters
from training import Run, case_and_settings

KINDS = (
    ("communication", r"nccl"),
    ("attention", r"flash|fmha|cudnn.*sdpa|attention"),
    ("products", r"gemm|nvjet|cutlass|sm90_xmma|cublas"),
    ("optimizer and clip", r"adam|multi_tensor|foreach|lpnorm"),
    ("fused elementwise", r"triton|swiglu|softmax"),
    ("copies and sums", r"elementwise|copy|memcpy|memset|reduce|cat|index|scatter|gather"),
)
SPANS = ("nccl:", "Optimizer.")  # names that the profiler gives to spans around kernels
LASTING = 1_000  # products of ceiling()


def ceiling(size: int = 8192, repeats: int = 10) -> float:
    """FLOP/s of a bf16 product of square matrices."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (start.elapsed_time(end) / 1e3)


def kind_of(kernel: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what spans of time cover together."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def main() -> None:
    if {"-h", "--help"} & {*sys.argv}:
        print(__doc__)
        return
    case, settings = case_and_settings(sys.argv[1:])
    rate, lasting = ceiling(), ceiling(repeats=LASTING)
    with Run(settings, case, steps=6) as run:
        steps = iter(run)
        for _ in range(4):
            next(steps)
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
            _, row = next(steps)
            torch.cuda.synchronize()
    if not run.world.main:
        return
    tokens = settings.batch * case.length / run.world.size
    seconds, kernels = Counter[str](), Counter[str]()
    ran = [event for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    ran = [event for event in ran if not event.name.startswith(SPANS)]
    for event in ran:
        seconds[kind_of(event.name)] += event.time_range.elapsed_us()
        kernels[event.name] += event.time_range.elapsed_us()
    print(f"{run.rows} rows a micro-batch, {row['tokens_per_second']:,.0f} tokens/s with the profiler on")
    for flops, name in ((rate, "ceiling"), (lasting, "ceiling that lasts")):
        print(
            f"{name} {flops / 1e12:.0f} TFLOP/s; products at it: {6e6 * parameters(case.shape) / flops:.2f} us a token"
        )
    for kind, value in seconds.most_common():
        print(f"{kind:20} {value / tokens:7.3f} us a token")
    print(f"{'sum':20} {sum(seconds.values()) / tokens:7.3f}")
    if run.world.size > 1:
        spans = [(event.time_range.start, event.time_range.end, kind_of(event.name)) for event in ran]
        exposed = covered(span[:2] for span in spans) - covered(span[:2] for span in spans if span[2] != KINDS[0][0])
        print(f"{'exposed of it':20} {exposed / tokens:7.3f} us a token of {seconds['communication'] / tokens:.3f}")
    for name, value in kernels.most_common(32):
        print(f"{value / tokens:7.3f}  {kind_of(name):18} {name[:150]}")


if __name__ == "__main__":
    main()
