"""Pretraining of the mini_qwen 1B shape at 1,024 tokens: danlu against transformers at each of its settings.

    python benchmarks/pretraining.py [--json FILE] [--batch 96] [--steps 6] [WAY ...]

Each way is a process of its own, one after the other, on the same documents of random tokens: forward, backward,
clipping at 1 and AdamW on a global batch of `--batch` rows. danlu trains float32 masters and keeps documents apart;
transformers gets every advantage: bf16 weights and moments, no masks. Liger needs `pip install liger-kernel`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from breakdown import ceiling
from danlu.model.settings import parameters, training_flops
from training import DOCUMENT, LENGTH, SHAPE, Run, settings_from_arguments

PEAK = 989e12
WAYS = {
    "danlu": {},
    "danlu, 24 rows": {"rows": 24},
    "transformers": {"rows": 12},
    "transformers + compile, 12 rows": {"rows": 12, "compile": True},
    "transformers + compile, 24 rows": {"rows": 24, "compile": True},
    "transformers + Liger, 24 rows": {"rows": 24, "liger": True},
    "transformers + Liger, 48 rows": {"rows": 48, "liger": True},
}


def ours(batch: int, steps: int, rows: int | None = None) -> dict[str, Any]:
    start = time.perf_counter()
    arguments = [f"batch={batch}"] + ([f"rows={rows}"] if rows else [])
    with Run(settings_from_arguments(arguments), steps=steps) as run:
        seconds, rows_a_micro = [], run.rows
        for _ in run:
            torch.cuda.synchronize()
            seconds.append(time.perf_counter())
    return {"ends": [start, *seconds], "rows": rows_a_micro}


def theirs(batch: int, steps: int, rows: int, compile: bool = False, liger: bool = False) -> dict[str, Any]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    start = time.perf_counter()
    if liger:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2()
    config = Qwen2Config(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.hidden_size,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        intermediate_size=SHAPE.mlp_size,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if compile else model
    generator = torch.Generator("cuda").manual_seed(0)
    ends = [start]
    for _ in range(steps):
        for _ in range(batch // rows):
            shape = (rows, LENGTH)
            tokens = torch.randint(SHAPE.vocab_size, shape, device="cuda", generator=generator)
            (forward(input_ids=tokens, labels=tokens).loss * rows / batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        ends.append(time.perf_counter())
    return {"ends": ends, "rows": rows}


def measure(way: str, batch: int, steps: int) -> dict[str, Any]:
    run = ours if way.startswith("danlu") else theirs
    found = run(batch, steps, **WAYS[way])
    ends = found["ends"]
    seconds = statistics.median(b - a for a, b in pairwise(ends[2:]))
    rate = batch * LENGTH / seconds
    return {
        "way": way,
        "rows": found["rows"],
        "tokens_per_second": rate,
        "mfu_documents": rate * _flops_by_documents() / PEAK,
        "mfu_causal": rate * training_flops(SHAPE, [LENGTH]) / LENGTH / PEAK,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "first_step_seconds": ends[1] - ends[0],
    }


def _flops_by_documents() -> float:
    """FLOPs a token of windows cut out of documents of DOCUMENT tokens end to end."""
    count = 1000
    bounds = sorted({*range(0, count * LENGTH, LENGTH), *range(0, count * LENGTH, DOCUMENT), count * LENGTH})
    lengths = [b - a for a, b in pairwise(bounds)]
    return training_flops(SHAPE, lengths) / sum(lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", default=list(WAYS), metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.ways[0], given.batch, given.steps)))
        return
    found = []
    for way in given.ways:
        command = [sys.executable, __file__, way, "--one", "--batch", str(given.batch), "--steps", str(given.steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{way}: failed: {(done.stderr.strip().splitlines() or [''])[-1]}", flush=True)
            continue
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{way}: {found[-1]['tokens_per_second']:,.0f} tokens/s", flush=True)
    top = ceiling()
    best = max((row["tokens_per_second"] for row in found if not row["way"].startswith("danlu")), default=0.0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, products at {top / 1e12:.0f} TFLOP/s")
    print(f"{'':34}{'rows':>5}{'tok/s':>9}{'MFU doc':>9}{'causal':>8}{'ceiling':>9}{'GiB':>7}{'1st s':>7}{'ratio':>7}")
    for row in found:
        rate = row["tokens_per_second"]
        share = 6 * parameters(SHAPE) * rate / top
        ratio = f"{rate / best:.2f}" if best else "-"
        print(
            f"{row['way']:34}{row['rows']:5}{rate:9,.0f}{row['mfu_documents']:9.1%}{row['mfu_causal']:8.1%}{share:9.1%}"
            f"{row['peak_gib']:7.1f}{row['first_step_seconds']:7.1f}{ratio:>7}"
        )
    if given.json:
        given.json.write_text(json.dumps({"ceiling": top, "ways": found}, indent=1))


if __name__ == "__main__":
    main()
