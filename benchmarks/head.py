"""The loss head, forward and backward, against plain and compiled cross-entropy and Liger's (where it is installed).

    python benchmarks/head.py [--tokens N] [--width D] [--vocabulary V] [--dtype bfloat16]

All ways run in turn in every round, so that a busy machine is busy for all of them; the best round counts. Memory is
what a way needs beside hidden states, weight and the weight's gradient. The last columns compare loss and gradients
with the plain way in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.head import Head


@dataclass
class Way:
    """One way to a loss, and what was measured of it."""

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    errors: tuple[float, float, float] = (0.0, 0.0, 0.0)


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum") / len(labels)


def ways(head: Head, labels: Tensor) -> list[Way]:
    def chunked(hidden: Tensor, gigabytes: float) -> Tensor:
        head.chunk_bytes = int(gigabytes * 1e9)
        nll = head(hidden, labels).nll
        head.chunk_bytes = None
        return nll / len(labels)

    found = [
        Way("danlu", lambda hidden, weight: head(hidden, labels).nll / len(labels)),
        Way("danlu, 2.5 GB", lambda hidden, weight: chunked(hidden, 2.5)),
        Way("danlu, 1.3 GB", lambda hidden, weight: chunked(hidden, 1.3)),
        Way("danlu, logp", lambda hidden, weight: -head(hidden, labels, needs="logp").logp.mean()),
        Way("plain", lambda hidden, weight: plain(hidden, weight, labels)),
    ]
    compiled = torch.compile(plain)
    found.append(Way("plain, compiled", lambda hidden, weight: compiled(hidden, weight, labels)))
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return found
    liger = LigerFusedLinearCrossEntropyLoss()
    return [*found, Way("Liger", lambda hidden, weight: liger(weight, hidden, labels))]


def measure(way: Way, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients; notes time and memory."""
    hidden.grad = weight.grad = None
    cuda = hidden.is_cuda
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    loss = way.loss(hidden, weight)
    loss.backward()
    if cuda:
        torch.cuda.synchronize()
        way.peak = torch.cuda.max_memory_allocated() - before - weight.nbytes
    way.seconds.append(time.perf_counter() - start)
    assert hidden.grad is not None and weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def relative(ours: Tensor, exact: Tensor) -> float:
    return ((ours.float() - exact).norm() / exact.norm()).item()


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tokens", type=int, default=16_384 if device == "cuda" else 1_024)
    arguments.add_argument("--width", type=int, default=1_024 if device == "cuda" else 128)
    arguments.add_argument("--vocabulary", type=int, default=151_936)
    arguments.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    arguments.add_argument("--rounds", type=int, default=10 if device == "cuda" else 3)
    given = arguments.parse_args()
    dtype = getattr(torch, given.dtype)
    torch.manual_seed(0)
    head = Head(given.width, given.vocabulary).to(device, dtype)
    weight = head.linear.weight  # type: ignore[union-attr]  # it is not tied
    hidden = torch.randn(given.tokens, given.width, device=device).to(dtype).requires_grad_()
    labels = torch.randint(given.vocabulary, (given.tokens,), device=device)

    few = slice(0, min(1_024, given.tokens))
    exact_hidden = hidden.detach().float()[few].requires_grad_()
    exact_weight = weight.detach().float().requires_grad_()
    exact = plain(exact_hidden, exact_weight, labels[few])
    exact.backward()
    rows = ways(head, labels)
    for way, small in zip(rows, ways(head, labels[few]), strict=True):
        ours = measure(small, hidden.detach()[few].requires_grad_(), weight)
        truth = (exact.detach(), exact_hidden.grad, exact_weight.grad)
        way.errors = tuple(relative(a, b) for a, b in zip(ours, truth, strict=True))  # type: ignore[assignment,arg-type]
    del exact, exact_hidden, exact_weight
    for _ in range(given.rounds + 1):
        for way in rows:
            measure(way, hidden, weight)

    products = 6 * given.tokens * given.width * given.vocabulary
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{given.tokens} x {given.vocabulary} x {given.width}, {given.dtype}, {where}, torch {torch.__version__}")
    print(f"{'':18}{'ms':>10}{'TFLOP/s':>10}{'GB':>8}{'loss err.':>12}{'d hidden':>12}{'d weight':>12}")
    for way in rows:
        best = min(way.seconds[1:])
        memory = f"{way.peak / 1e9:.2f}" if device == "cuda" else "-"
        errors = "".join(f"{error:12.1e}" for error in way.errors)
        print(f"{way.name:18}{best * 1e3:10.1f}{products / best / 1e12:10.2f}{memory:>8}{errors}")


if __name__ == "__main__":
    main()
