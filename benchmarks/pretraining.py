"""Pretraining at full rows: danlu against transformers at each of its settings.

    python benchmarks/pretraining.py [--shape 1B|7B] [--batch 192] [--steps 6] [--json FILE] [WAY ...]

1B is mini_qwen's shape at 1,024 tokens; 7B has 32 blocks of 4,096, an MLP of 11,008, 64,000 entries and rows of 4,096.
Each way is a process of its own, one after the other, on documents of random tokens: forward, backward, clipping at 1
and AdamW on a global batch of `--batch` rows. danlu trains float32 masters and keeps documents apart; transformers gets
every advantage: bf16 weights and moments, no masks. Liger needs `pip install liger-kernel`. Any other way that begins
with danlu is settings of TrainSettings: "danlu rows=2 recompute=true".

Bytes a parameter of ours: 4 + 4 for float32 weights and gradients, 2 for the weights computed with, and 8 for moments,
which with optimizer_states=8bit are 2: at 7B 117 or 79 GiB, of an H200's 139.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import pairwise
from typing import Any

import torch

from breakdown import ceiling
from chain import PEAK, Column, is_ours, parser, run, show
from danlu.model.settings import parameters, training_flops
from training import CASES, Case, Run, settings_from_arguments

WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "1B": {
        "danlu": {},
        "danlu rows=24": {},
        "transformers": {"rows": 12},
        "transformers + compile, 12 rows": {"rows": 12, "compile": True},
        "transformers + compile, 24 rows": {"rows": 24, "compile": True},
        "transformers + Liger, 24 rows": {"rows": 24, "liger": True},
        "transformers + Liger, 48 rows": {"rows": 48, "liger": True},
    },
    "7B": {
        "danlu rows=2 optimizer_states=8bit": {},
        "danlu float8": {"rows": 3, "precision": "float8", "optimizer_states": "8bit"},
        "transformers + compile, 2 rows": {"rows": 2, "compile": True},
        "transformers + Liger, 2 rows": {"rows": 2, "liger": True},
        "transformers + Liger, 4 rows, checkpointing": {"rows": 4, "liger": True, "recompute": True},
    },
    "tiny": {"danlu rows=2": {}, "danlu float8": {"precision": "float8"}, "transformers": {"rows": 2}},
}
BATCH = {"1B": 192, "7B": 64, "tiny": 4}
COLUMNS: list[Column] = [
    ("rows", "rows", ".0f"),
    ("tok/s", "tokens_per_second", ",.0f"),
    ("ratio", "tokens_per_second", "x"),
    ("MFU doc", "mfu_documents", ".1%"),
    ("causal", "mfu_causal", ".1%"),
    ("ceiling", "share_of_ceiling", ".1%"),
    ("GiB", "peak_gib", ".1f"),
    ("1st s", "first_step_seconds", ".1f"),
]


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    case = CASES[given.shape]
    settings = WAYS[given.shape].get(way, {})
    found = ours(way, case, given, **settings) if is_ours(way) else theirs(case, given, **settings)
    ends = found["ends"]
    seconds = statistics.median(b - a for a, b in pairwise(ends[2:]))
    rate = given.batch * case.length / seconds
    return {
        "rows": found["rows"],
        "tokens_per_second": rate,
        "mfu_documents": rate * _flops_by_documents(case) / PEAK,
        "mfu_causal": rate * training_flops(case.shape, [case.length]) / case.length / PEAK,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if given.device == "cuda" else None,
        "first_step_seconds": ends[1] - ends[0],
    }


def ours(way: str, case: Case, given: argparse.Namespace, **settings: Any) -> dict[str, Any]:
    start = time.perf_counter()
    precision = [] if given.device == "cuda" else ['precision="float32"']
    named = [f"{key}={json.dumps(value)}" for key, value in settings.items()] or way.split()[1:]
    with Run(settings_from_arguments([f"batch={given.batch}", *precision, *named]), case, given.steps) as run:
        seconds = []
        for _ in run:
            _wait(given.device)
            seconds.append(time.perf_counter())
    return {"ends": [start, *seconds], "rows": run.rows}


def theirs(
    case: Case,
    given: argparse.Namespace,
    rows: int,
    compile: bool = False,
    liger: bool = False,
    recompute: bool = False,
) -> dict[str, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    start, shape = time.perf_counter(), case.shape
    if liger:
        from liger_kernel import transformers as kernels

        getattr(kernels, f"apply_liger_kernel_to_{shape.family}")()
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.mlp_size,
        tie_word_embeddings=shape.tie_embeddings,
        use_cache=False,
    )
    with torch.device(given.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").train()
    if recompute:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if compile else model
    generator = torch.Generator(given.device).manual_seed(0)
    ends = [start]
    for _ in range(given.steps):
        for _ in range(given.batch // rows):
            tokens = torch.randint(shape.vocab_size, (rows, case.length), device=given.device, generator=generator)
            (forward(input_ids=tokens, labels=tokens).loss * rows / given.batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _wait(given.device)
        ends.append(time.perf_counter())
    return {"ends": ends, "rows": rows}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _flops_by_documents(case: Case) -> float:
    """FLOPs a token of windows cut out of the documents laid end to end."""
    total, edge = 1000 * case.length, 0
    cuts = {*range(0, total, case.length), total}
    for length in case.documents(total):
        cuts.add(edge)
        edge += length
    bounds = sorted(cut for cut in cuts if cut <= total)
    lengths = [b - a for a, b in pairwise(bounds)]
    return training_flops(case.shape, lengths) / sum(lengths)


def main() -> None:
    options = parser(__doc__, [way for ways in WAYS.values() for way in ways])
    options.set_defaults(ways=None)
    options.add_argument("--shape", choices=list(CASES), default="1B")
    options.add_argument("--batch", type=int, help="rows a step")
    options.add_argument("--steps", type=int, default=6)
    given = options.parse_args()
    given.shape = "tiny" if given.tiny else given.shape
    given.ways = given.ways or list(WAYS[given.shape])
    given.batch = given.batch or BATCH[given.shape]
    found = run(given, measure)
    top = ceiling() if given.device == "cuda" else 1e12
    for row in found:
        row["share_of_ceiling"] = 6 * parameters(CASES[given.shape].shape) * row["tokens_per_second"] / top
    print(f"{given.shape}, {parameters(CASES[given.shape].shape):,} parameters; products at {top / 1e12:.0f} TFLOP/s")
    show(given, found, COLUMNS, ceiling=top)


if __name__ == "__main__":
    main()
