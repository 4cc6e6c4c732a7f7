"""Where the microseconds of a training step go: GPU time a token by kind of kernel, and this machine's ceiling.

    python benchmarks/breakdown.py [1B|7B] [KEY=VALUE ...]      settings of TrainSettings, such as rows=48 batch=96

Same shape, data and step as training.py. The floor is the time of the step's matrix products at the rate that a large
one reaches on this machine.
"""

from __future__ import annotations

import re
import sys
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from danlu.model.settings import parameters
from training import CASES, Run, settings_from_arguments

KINDS = (
    ("attention", r"flash|fmha|cudnn.*sdpa|attention"),
    ("products", r"gemm|nvjet|cutlass|sm90_xmma|cublas"),
    ("optimizer and clip", r"adam|multi_tensor|foreach|lpnorm"),
    ("fused elementwise", r"triton|swiglu|softmax"),
    ("copies and sums", r"elementwise|copy|memcpy|memset|reduce|cat|index|scatter|gather"),
    ("communication", r"nccl"),
)


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


def main() -> None:
    case = next((CASES[name] for name in sys.argv[1:] if name in CASES), CASES["1B"])
    settings = settings_from_arguments([item for item in sys.argv[1:] if item not in CASES])
    rate = ceiling()
    with Run(settings, case, steps=6) as run:
        steps = iter(run)
        for _ in range(4):
            next(steps)
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
            _, row = next(steps)
            torch.cuda.synchronize()
    tokens = settings.batch * case.length
    seconds, kernels = Counter[str](), Counter[str]()
    for event in trace.key_averages():
        if event.self_device_time_total and event.device_type == torch.autograd.DeviceType.CUDA:
            seconds[kind_of(event.key)] += event.self_device_time_total
            kernels[event.key] += event.self_device_time_total
    print(f"{run.rows} rows a micro-batch, {row['tokens_per_second']:,.0f} tokens/s with the profiler on")
    print(f"ceiling {rate / 1e12:.0f} TFLOP/s; products at it: {6e6 * parameters(case.shape) / rate:.2f} us a token")
    for kind, value in seconds.most_common():
        print(f"{kind:20} {value / tokens:7.3f} us a token")
    print(f"{'sum':20} {sum(seconds.values()) / tokens:7.3f}")
    for name, value in kernels.most_common(32):
        print(f"{value / tokens:7.3f}  {kind_of(name):18} {name[:150]}")


if __name__ == "__main__":
    main()
