"""A CUDA machine in two minutes: is the decoder right there, and how fast?

    PYTHONPATH=src python benchmarks/gpu_decoder_smoke.py

Variable-length attention against masked SDPA in float32, documents apart bit for bit, the head against plain
cross-entropy, blocks compiled once for all layers and batches, and tokens/s of the 1B shape at 12 x 1,024, forward
and backward. Exits with an error where something is wrong. Runs on a CPU too, tiny, to check itself.
"""

from __future__ import annotations

import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.attention import Documents, document_mask, masked_attention
from danlu.model.decoder import Decoder
from danlu.model.head import Head
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings, parameters, training_flops

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
PEAK = 989e12
faults: list[str] = []


def expect(name: str, holds: bool, detail: str) -> None:
    print(f"{'ok   ' if holds else 'WRONG'} {name}: {detail}", flush=True)
    if not holds:
        faults.append(name)


def relative(ours: Tensor, exact: Tensor) -> float:
    return ((ours.float() - exact.float()).norm() / exact.float().norm()).item()


def rows(batch: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """cu, document ids, positions and lengths of rows full of documents of some 300 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths: list[int] = []
    for _ in range(batch):
        left = length
        while left:
            lengths.append(min(left, int(torch.randint(20, 580, (), generator=generator))))
            left -= lengths[-1]
    flat = torch.tensor(lengths)
    most = batch * (length // 20 + 1)
    cu = torch.full((most + 1,), batch * length, dtype=torch.int32)
    cu[0], cu[1 : len(lengths) + 1] = 0, flat.cumsum(0)
    document = torch.arange(len(lengths)).repeat_interleave(flat).view(batch, length)
    positions = torch.cat([torch.arange(n) for n in lengths]).view(batch, length)
    return cu.to(DEVICE), document.to(DEVICE), positions.to(DEVICE), lengths


def check_attention() -> None:
    batch, length, heads, groups, size = (4, 1024, 16, 4, 64) if CUDA else (2, 600, 4, 2, 8)
    cu, document, _, _ = rows(batch, length, 0)
    for window in (None, 128):
        torch.manual_seed(0)
        inputs = [torch.randn(batch, length, n, size, device=DEVICE) for n in (heads, groups, groups)]
        upstream = torch.randn(batch, length, heads, size, device=DEVICE)
        found = []
        for way in ("float32 mask", "bfloat16 mask", "bfloat16 documents"):
            dtype = torch.float32 if way == "float32 mask" else torch.bfloat16
            leaves = [x.bfloat16().to(dtype).requires_grad_() for x in inputs]
            if way == "bfloat16 documents":
                out = Documents(cu, length, document, window)(0, *leaves)
            else:
                out = masked_attention(*leaves, document_mask(document, window))
            found.append([out, *torch.autograd.grad(out, leaves, upstream.to(dtype))])
        for name, exact, masked, ours in zip(("out", "dq", "dk", "dv"), *found, strict=True):
            error, usual = relative(ours, exact), relative(masked, exact)
            detail = f"relative error {error:.1e}, SDPA's {usual:.1e}"
            expect(f"documents, window {window}, {name}", error < 1.5 * usual + 1e-3, detail)


def check_isolation() -> None:
    shape = {"vocab_size": 1000, "hidden_size": 256, "layers": 3, "heads": 8, "kv_heads": 2, "mlp_size": 512}
    decoder = Decoder.empty(ModelSettings.model_validate(shape), torch.bfloat16, DEVICE)
    initialise(decoder, 0)
    cu, document, positions, lengths = rows(2, 1024, 1)
    tokens = torch.randint(1000, (2, 1024), device=DEVICE)
    other = tokens.clone()
    other[document == 1] = (other[document == 1] + 1) % 1000
    with torch.no_grad():
        before, after = (decoder(t, positions, Documents(cu, 1024, document)) for t in (tokens, other))
    apart = torch.equal(before[document != 1], after[document != 1])
    changed = bool((before != after).any(-1)[document == 1].all())
    expect("isolation", apart and changed, f"{lengths[1]} tokens changed, {2048 - lengths[1]} equal bit for bit")


def check_head() -> None:
    tokens, width, vocabulary = (4096, 1024, 151_936) if CUDA else (64, 16, 500)
    torch.manual_seed(0)
    head = Head(width, vocabulary).to(DEVICE, torch.bfloat16)
    hidden = torch.randn(tokens, width, device=DEVICE).bfloat16().requires_grad_()
    labels = torch.randint(vocabulary, (tokens,), device=DEVICE)
    weights = (torch.rand(tokens, device=DEVICE) > 0.2).float()
    head.chunk_bytes = 1500 * vocabulary * 2 if CUDA else 20 * vocabulary * 2
    exact_hidden, exact_weight = (x.detach().float().requires_grad_() for x in (hidden, head.weight))

    def plain(states: Tensor, weight: Tensor) -> Tensor:
        nll = F.cross_entropy((states @ weight.t()).float(), labels, reduction="none")
        return (nll * weights).sum() / 1000

    losses = {
        "exact": (plain(exact_hidden, exact_weight), exact_hidden, exact_weight),
        "plain": (plain(hidden, head.weight), hidden, head.weight),
        "nll": (head(hidden, labels, weights / 1000).nll, hidden, head.weight),
        "logp": (-(head(hidden, labels, needs="logp").logp * weights).sum() / 1000, hidden, head.weight),
    }
    found = {name: [loss, *torch.autograd.grad(loss, leaves)] for name, (loss, *leaves) in losses.items()}
    for way in ("nll", "logp"):
        for what, ours, usual, exact in zip(
            ("loss", "d hidden", "d weight"), found[way], found["plain"], found["exact"], strict=True
        ):
            error, reference = relative(ours, exact), relative(usual, exact)
            detail = f"relative error {error:.1e}, plain bfloat16's {reference:.1e}"
            expect(f"head {way}, {what}", error < 2 * reference + 1e-4, detail)


def speed() -> None:
    one_billion = {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "layers": 48,
        "heads": 16,
        "kv_heads": 4,
        "mlp_size": 4864,
    }
    tiny = {"vocab_size": 500, "hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_size": 96}
    settings = ModelSettings.model_validate(one_billion if CUDA else tiny)
    batch, length = (12, 1024) if CUDA else (2, 128)
    start = time.perf_counter()
    decoder = Decoder.empty(settings, torch.bfloat16, DEVICE)
    initialise(decoder, 0)
    print(f"{parameters(settings):,} parameters made in {time.perf_counter() - start:.1f} s")
    batches = [rows(batch, length, seed) for seed in range(4)]
    tokens = torch.randint(settings.vocab_size, (batch, length), device=DEVICE)
    labels = tokens.flatten().roll(-1)
    weights = torch.full((labels.numel(),), 1 / labels.numel(), device=DEVICE)

    def step(number: int) -> None:
        cu, document, positions, _ = batches[number % 4]
        hidden = decoder(tokens, positions, Documents(cu, length, document))
        decoder.head(hidden.flatten(0, 1), labels, weights).nll.backward()

    def wait() -> float:
        if CUDA:
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(name: str, steps: int = 12) -> None:
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        start = wait()
        step(0)
        first = wait() - start
        step(1)
        start = wait()
        for number in range(steps):
            step(number)
        seconds = (wait() - start) / steps
        documents = [n for at in range(steps) for n in batches[at % 4][3]]
        flops = training_flops(settings, documents) / steps / seconds
        usual = training_flops(settings, [length] * batch) / seconds
        peak = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
        print(
            f"{name}: {batch * length / seconds:,.0f} tokens/s, MFU {flops / PEAK:.1%} by document lengths, "
            f"{usual / PEAK:.1%} by causal rows, {peak:.1f} GiB, first step {first:.1f} s",
            flush=True,
        )

    timed("eager", 4)
    torch._dynamo.utils.counters.clear()
    decoder.compile_blocks()
    timed("compiled")
    counters = torch._dynamo.utils.counters
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    # The head's kernel was compiled by the eager run.
    expect(
        "compiled once", graphs == 1 and not breaks, f"{graphs} graphs for {settings.layers} layers, {breaks} breaks"
    )
    decoder.recompute = True
    timed("compiled, recomputing", 6)


def main() -> None:
    name = torch.cuda.get_device_name() if CUDA else "CPU"
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {name}")
    check_attention()
    check_isolation()
    check_head()
    speed()
    if faults:
        sys.exit(f"{len(faults)} wrong: {', '.join(faults)}")


if __name__ == "__main__":
    main()
