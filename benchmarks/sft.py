"""Supervised fine-tuning of the mini_qwen 1B shape on its real rows: danlu against TRL's SFTTrainer.

    python benchmarks/sft.py --data FOLDER --tokenizer FOLDER [--epochs 8] [--rounds 1] [--json FILE] [WAY ...]

FOLDER holds mini_qwen's sft/; the last answer of a conversation over 1,024 tokens is cut beforehand, so both sides see
the same tokens and the same labels, every answer token and nothing else. A step is the whole set, so that losses can be
compared step by step: data, forward, backward, clipping at 1, AdamW. danlu keeps float32 weights and computes in bf16;
TRL trains float32 weights under bf16 autocast, and bf16 weights and moments where it says so. Its attention is torch's
variable-length FlashAttention, or SDPA where rows are padded; `pip install trl liger-kernel`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import fine_tuning
from chain import PEAK, Column, is_ours, parser
from danlu.model.settings import training_flops
from danlu.recipe.job import TrainingJob, training_stream

WAYS: dict[str, dict[str, Any]] = {
    "danlu": {},
    "TRL, padded, SDPA": {"rows": 16, "attention": "sdpa", "packing": False},
    "TRL, packed, flash": {"rows": 16},
    "TRL, packed, flash, Liger": {"rows": 16, "liger": True},
    "TRL, packed, flash, Liger, bf16 weights": {"rows": 16, "liger": True, "dtype": "bfloat16"},
}
COLUMNS: list[Column] = [
    ("rows", "rows", ".0f"),
    ("samples/s", "samples_per_second", ",.1f"),
    ("tokens/s", "useful_tokens_per_second", ",.0f"),
    ("ratio", "samples_per_second", "x"),
    ("MFU", "mfu", ".1%"),
    ("padding", "padding", ".1%"),
    ("GiB", "peak_gib", ".1f"),
    ("1st step s", "first_step_seconds", ".1f"),
    ("loss 1", "first_loss", ".4f"),
    ("loss end", "last_loss", ".4f"),
]
RATE = 1e-5


def prepare(given: argparse.Namespace, work: Path) -> None:
    """Writes the cut rows, the weights to start from and the job that danlu runs."""
    tokenizer = fine_tuning.tokenizer_of(given.tokenizer)
    length, rows = fine_tuning.length_of(given.tiny), work / "rows"
    rows.mkdir()
    fine_tuning.write_conversations(rows / "rows.jsonl", given.data, tokenizer, length, 8 if given.tiny else None)
    start = fine_tuning.write_start(given.tiny, work / "start", tokenizer)
    job = fine_tuning.pack("sft", work, given.tokenizer, start, [f"sft.data.length={length}"])
    examples = training_stream(job).epoch
    calm = {"learning_rate": RATE, "schedule": "constant", "warmup": 0.0}
    train = job.train.model_copy(update={"batch": examples, "epochs": float(given.epochs), **calm})
    if given.device == "cpu":
        train = train.model_copy(update={"precision": "float32"})
    (work / "job.json").write_text(job.model_copy(update={"train": train}).model_dump_json(by_alias=True))


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    job = fine_tuning.read_job(given.work)
    lengths = [len(taken.documents[0]) for taken in training_stream(job).once().examples(0, training_stream(job).epoch)]
    if is_ours(way):
        with tempfile.TemporaryDirectory() as out:
            found = fine_tuning.ours(job, Path(out) / "run")
    else:
        found = theirs(job, given, **WAYS[way])
    seconds = statistics.median(b - a for a, b in pairwise(found["ends"][fine_tuning.WARM - 1 :]))
    shape = fine_tuning.shape_of(given.tiny)
    return {
        "rows": found["rows"],
        "samples": len(lengths),
        "tokens_a_sample": sum(lengths) / len(lengths),
        "samples_per_second": len(lengths) / seconds,
        "useful_tokens_per_second": sum(lengths) / seconds,
        "mfu": training_flops(shape, lengths) / seconds / PEAK,
        "padding": found.get("padding"),
        "peak_gib": fine_tuning.peak_gib(given.device),
        "first_step_seconds": found["ends"][0] - found["began"],
        "first_loss": found["losses"][0],
        "last_loss": found["losses"][-1],
        "losses": found["losses"],
    }


def theirs(
    job: TrainingJob,
    given: argparse.Namespace,
    rows: int,
    attention: str = "torch_varlen",
    packing: bool = True,
    liger: bool = False,
    dtype: str = "float32",
) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    fine_tuning.torch_flash()
    model = AutoModelForCausalLM.from_pretrained(
        str(job.start), dtype=getattr(torch, dtype), attn_implementation=attention
    )
    return fine_tuning.trl_sft(model, job, given, rows, packing, use_liger_kernel=liger)


def main() -> None:
    options = parser(__doc__, WAYS)
    fine_tuning.common_options(options, epochs=8, part="sft")
    given = options.parse_args()
    found = fine_tuning.compare(given, prepare, measure)
    if found:
        print(f"{found[0]['samples']} samples of {found[0]['tokens_a_sample']:.0f} tokens a step")
        fine_tuning.show_with_losses(given, found, COLUMNS)


if __name__ == "__main__":
    main()
