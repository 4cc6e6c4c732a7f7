"""Loss and speed in bf16 and in float8 over the same steps of real text: same first weights, same packed rows.

    python benchmarks/float8.py --packed OUT [--shape 1B|7B] [--steps 200] [--set KEY=VALUE ...] [--json FILE] [WAY ...]
    python benchmarks/float8.py --packed OUT --adapter lora|qlora [--base-steps 400] [--json FILE] [WAY ...]

OUT holds the text that `time_to_loss.py --pack` packed; the settings are those of time_to_loss.yaml at another shape,
with AdamW. The loss is the mean over the last 20 steps, `apart` its distance from bf16's. Runs that differ in the order
of their sums alone are apart too: "danlu bf16, other rows" says how far. With `--adapter` the decoder of
time_to_loss.yaml is trained for `--base-steps` first, in bf16 and by its settings; what is compared are adapters of
rank 64 over it, frozen, on Chinese text alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from chain import Column, parser, run, show
from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.metrics import read_metrics
from danlu.model.decoder import Decoder
from danlu.model.open import open_decoder
from danlu.model.parts import initialise
from danlu.model.settings import parameters
from danlu.recipe.job import TrainingJob, training_stream
from danlu.tokens.tokenizer import Tokenizer
from danlu.train.loop import train
from danlu.train.objectives.next_token import NextToken
from danlu.train.tune_settings import LoRA, QLoRA
from time_to_loss import job_of, unpack

SHAPES = {
    "1B": {
        "hidden_size": 2048, "layers": 18, "heads": 16, "kv_heads": 16, "mlp_size": 5632, "batch": 32, "rows": 16
    },
    "7B": {
        "hidden_size": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "mlp_size": 11008, "batch": 8, "rows": 4
    },
}  # fmt: skip
COMMON = {"optimizer": "adamw", "learning_rate": 3e-4, "schedule": "cosine", "warmup": 0.1, "epochs": 100}
WAYS: dict[str, dict[str, Any]] = {
    "danlu bf16": {"precision": "bf16"},
    "danlu float8": {"precision": "float8"},
    "danlu bf16, other rows": {"precision": "bf16", "rows": 2},
}
ADAPTER = {"optimizer": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05, "weight_decay": 0.0}
BASE = "base"
LAST = 20
COLUMNS: list[Column] = [
    ("tokens/s", "tokens_per_second", ",.0f"),
    ("of bf16", "speed", ".2f"),
    ("loss", "loss", ".4f"),
    ("apart", "apart", "+.4f"),
    ("bpb", "bits_per_byte", ".4f"),
    ("GiB", "peak_gib", ".1f"),
]


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    job = job_of(given, steps=given.base_steps) if way == BASE else compared(way, given)
    with tempfile.TemporaryDirectory() as folder:
        out = given.work / BASE if way == BASE else Path(folder)
        tokenizer, decoder = Tokenizer.load(job.tokenizer), started(job, given.device)
        train(job.train, NextToken(), decoder, tokenizer, None, training_stream(job), {}, out, device=given.device)
        steps = [row for row in read_metrics(out / "metrics.jsonl") if "loss" in row]
    return {
        "loss": fmean(row["loss"] for row in steps[-LAST:]),
        "bits_per_byte": fmean(row["bits_per_byte"] for row in steps[-LAST:]),
        "tokens_per_second": median(row["tokens_per_second"] for row in steps[len(steps) // 4 :]),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if given.device == "cuda" else None,
        "parameters": parameters(job.model),
        "curve": [row["loss"] for row in steps],
    }


def compared(way: str, given: argparse.Namespace) -> TrainingJob:
    job = job_of(given, steps=given.steps, **WAYS[way])
    if not given.adapter:
        return job
    tune = {"lora": LoRA(rank=64), "qlora": QLoRA()}[given.adapter]
    chinese = [source for source in job.data.sources if source.name == "zh"]
    return job.model_copy(
        update={
            "train": job.train.model_copy(update={**ADAPTER, "tune": tune}),
            "data": job.data.model_copy(update={"sources": chinese}),
            "start": str(given.work / BASE),
        }
    )


def started(job: TrainingJob, device: str) -> Decoder:
    """Random weights, or the base in bf16 or NF4."""
    if job.start is not None:
        quantisation = "nf4" if isinstance(job.train.tune, QLoRA) else None
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        return open_decoder(resolve_checkpoint(Path(job.start)), dtype, device, quantisation=quantisation)
    assert job.model is not None
    decoder = Decoder.empty(job.model)
    initialise(decoder, job.seed)
    return decoder


def main() -> None:
    options = parser(__doc__, WAYS)
    options.set_defaults(ways=list(WAYS)[:2])
    options.add_argument("--packed", type=Path, required=True, help="folder of packed.tar.zst")
    options.add_argument("--shape", choices=list(SHAPES), default="1B")
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--adapter", choices=["lora", "qlora"], help="compare adapters over one base")
    options.add_argument("--base-steps", type=int, default=400)
    options.add_argument("--set", action="append", help="a setting of time_to_loss.yaml, KEY=VALUE")
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if not given.one and not given.adapter:
        training = ("batch", "rows")
        shape = {
            ("pretrain.train." if key in training else "model.") + key: v for key, v in SHAPES[given.shape].items()
        }
        train = {f"pretrain.train.{key}": value for key, value in COMMON.items()}
        given.set = [f"{key}={value}" for key, value in {**shape, **train}.items()] + (given.set or [])
    with tempfile.TemporaryDirectory() as folder:
        if not given.one:
            given.work = Path(folder)
            unpack(given.packed, given.work)
        if given.adapter and not given.one:
            given.ways, ways = [BASE], given.ways
            run(given, measure)
            given.ways = ways
        found = run(given, measure)
    plain = next((row for row in found if row["way"] == "danlu bf16"), None)
    for row in found if plain else ():
        row["apart"] = row["loss"] - plain["loss"]
        row["speed"] = row["tokens_per_second"] / plain["tokens_per_second"]
    show(given, found, COLUMNS)


if __name__ == "__main__":
    main()
