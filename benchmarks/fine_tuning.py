"""What sft.py, lora.py and dpo.py share: the rows of mini_qwen cut to length, the stages' folders, both sides' runs."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import torch

from chain import Column, run, show
from danlu.config import check
from danlu.ledger.metrics import read_metrics
from danlu.model.attention import _each_document, _varlen
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.recipe.build import build_stages
from danlu.recipe.job import TrainingJob, run_job, training_stream
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe, load_recipe
from danlu.tokens.stream import Step
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.train import loop
from training import SHAPE

RECIPES = Path(__file__).parents[1] / "recipes" / "mini_qwen_1b"
TINY = ModelSettings(family="qwen2", vocab_size=151_936, hidden_size=64, layers=8, heads=4, kv_heads=2, mlp_size=128)
WARM = 2
"""Steps that are not timed: they pay for compilation and the first allocations."""


def length_of(tiny: bool) -> int:
    return 96 if tiny else 1_024


def shape_of(tiny: bool) -> ModelSettings:
    return TINY if tiny else SHAPE


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer with the template that the recipes render with: no system prompt of its own."""
    return Template(Tokenizer.load(folder), "none").tokenizer


def read_rows(data: Path, part: str) -> Iterator[dict[str, Any]]:
    for file in sorted((data / part).rglob("*.parquet")):
        yield from pq.read_table(file).to_pylist()


def cut(tokenizer: Tokenizer, text: str, tokens: int, *, end: bool = False) -> str:
    """The text's first, or last, so many tokens as text."""
    ids = tokenizer.encode(text)
    return text if len(ids) <= tokens else tokenizer.decode(ids[-tokens:] if end else ids[:tokens]).strip("\ufffd")


def write_conversations(out: Path, data: Path, tokenizer: Tokenizer, length: int, most: int | None) -> None:
    """Writes the first conversations as JSON lines, each cut so that all of it fits into a row."""
    cut = (conversation(row, tokenizer, length) for row in read_rows(data, "sft"))
    with out.open("w", encoding="utf-8") as handle:
        for messages in islice(filter(None, cut), most):
            handle.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def conversation(row: dict[str, Any], tokenizer: Tokenizer, length: int) -> list[dict[str, str]] | None:
    """A conversation whose last answer is cut so that all of it fits into a row; None where no room is left for it."""
    names = {"human": "user", "gpt": "assistant", "system": "system"}
    messages = [{"role": names[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
    markup = 8 * len(messages)
    before = sum(len(tokenizer.encode(message["content"])) for message in messages[:-1])
    room = length - before - markup
    messages[-1]["content"] = cut(tokenizer, messages[-1]["content"], max(room, 1))
    return messages if room >= 16 else None


def write_start(tiny: bool, out: Path, tokenizer: Tokenizer) -> Path:
    """A folder of random weights of the shape in bf16, from which both sides start."""
    decoder = Decoder.empty(shape_of(tiny))
    initialise(decoder, 0)
    save_decoder(decoder.to(torch.bfloat16), out, tokenizer)
    return out


def pack(stage: str, work: Path, tokenizer: Path, start: Path, more: list[str]) -> TrainingJob:
    """Packs work/rows by mini_qwen's recipe; gives the job that trains on it."""
    recipe = recipe_of(stage, work, tokenizer, start, more)
    run_recipe(recipe, until=f"pack/{stage}")
    (found,) = (one for one in build_stages(recipe) if one.name == stage)
    return check(TrainingJob, found.settings)


def read_job(work: Path) -> TrainingJob:
    return check(TrainingJob, json.loads((work / "job.json").read_text()))


def recipe_of(stage: str, work: Path, tokenizer: Path, start: Path, more: list[str]) -> Recipe:
    return load_recipe(
        RECIPES / f"{stage}.yaml",
        [
            f"out={work / 'run'}",
            f"data={work / 'rows'}",
            f"tokenizer.path={tokenizer}",
            f"{stage}.start={start}",
            f"{stage}.data.sources=[{{name: rows, path: .}}]",
            f"{stage}.data.held_out=0",
            f"{stage}.train.save.every_epoch=false",
            f"{stage}.train.save.weights_only=true",
            *more,
        ],
    )


class _Timed(loop.Run):
    """The loop itself, with a clock behind each step."""

    ends: ClassVar[list[float]] = []
    last_rows: ClassVar[int] = 0

    def _save(self, *_: Any, **__: Any) -> None:
        self.last = self.out  # writing what nobody reads would take longer than the steps

    def _take(self, step: Step) -> bool:
        stopped = super()._take(step)
        self.ends.append(time.perf_counter())
        _Timed.last_rows = self.rows
        return stopped


def ours(job: TrainingJob, out: Path) -> dict[str, Any]:
    """Trains the job as `danlu` would and gives the moments at which steps ended and the losses that it wrote."""
    began, loop.Run = time.perf_counter(), _Timed  # type: ignore[misc]
    run_job(job, out)
    losses = [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]
    return {"began": began, "ends": _Timed.ends, "losses": losses, "rows": _Timed.last_rows}


def trl_sft(
    model: Any, job: TrainingJob, given: argparse.Namespace, rows: int, packing: bool = True, **more: Any
) -> dict[str, Any]:
    """TRL's SFTTrainer, its own packing, collator, loss and loop, on the tokens and labels of the job."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    on_gpu = given.device == "cuda"
    began = time.perf_counter()
    samples = []
    stream = training_stream(job).once()
    for taken in stream.examples(0, stream.epoch):
        (document,) = taken.documents
        ids = document.encoded.tokens.astype(np.int64)
        samples.append(
            {"input_ids": ids.tolist(), "labels": np.where(document.encoded.weights > 0, ids, -100).tolist()}
        )
    ticks = clock(given.device)
    with tempfile.TemporaryDirectory() as out:
        settings: dict[str, Any] = {
            "num_train_epochs": given.epochs,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": -(-len(samples) // rows),  # a step ends with the epoch at the latest
            "learning_rate": job.train.learning_rate,
            "lr_scheduler_type": "constant",
            "adam_beta2": job.train.betas[1],
            "weight_decay": job.train.weight_decay,
            "max_grad_norm": 1.0,
            "max_length": stream.length,
            "packing": packing,
            "packing_strategy": "bfd",
            "gradient_checkpointing": False,
            "bf16": on_gpu,
            "use_cpu": not on_gpu,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "dataloader_num_workers": 2 if on_gpu else 0,
            "dataloader_persistent_workers": on_gpu,
            "optim": "adamw_torch_fused",
        }
        more["use_liger_kernel"] = on_gpu and more.get("use_liger_kernel", False)
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(output_dir=out, **{**settings, **more}),
            train_dataset=Dataset.from_list(samples),
            processing_class=AutoTokenizer.from_pretrained(str(job.tokenizer)),
            callbacks=[ticks],
        )
        trainer.train()
    widths = [len(row["input_ids"]) for row in trainer.train_dataset]
    computed = sum(widths) if packing else sum(max(widths[at : at + rows]) * rows for at in range(0, len(widths), rows))
    return {
        "began": began,
        "ends": ticks.ends,
        "rows": rows,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "padding": 1 - sum(len(sample["input_ids"]) for sample in samples) / computed,
    }


def torch_flash() -> str:
    """The name of an attention for transformers that is torch's own variable-length FlashAttention.

    For peers on machines without the flash-attn package; TRL's packed batches bring the bounds of their documents. On a
    CPU, which has no such kernel, documents go through SDPA one by one.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[Any, None]:
        bounds, longest = more["cu_seq_lens_q"], more["max_length_q"]
        q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # autocast leaves q and k wide
        if q.is_cuda:
            return _varlen(q, k, v, bounds, longest, None)[None], None
        return _each_document(q[None], k[None], v[None], bounds.diff().tolist(), None), None

    AttentionInterface.register("torch_varlen", attend)
    AttentionMaskInterface.register("torch_varlen", flash_attention_mask)
    return "torch_varlen"


def clock(device: str) -> Any:
    """A callback for transformers' Trainer that notes when each step ended."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        ends: ClassVar[list[float]] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    return Clock()


def peak_gib(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def common_options(options: argparse.ArgumentParser, epochs: int, part: str) -> None:
    """What the comparisons on mini_qwen's rows share: where they are, their tokenizer, and how many steps are made."""
    options.add_argument("--data", type=Path, required=True, help=f"mini_qwen's data, with {part}/ in it")
    options.add_argument("--tokenizer", type=Path, required=True, help="its tokenizer's folder")
    options.add_argument("--epochs", type=int, default=epochs, help="steps; each takes every row once")
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)


def compare(
    given: argparse.Namespace,
    prepare: Callable[[argparse.Namespace, Path], None],
    measure: Callable[[str, argparse.Namespace], dict[str, Any]],
) -> list[dict[str, Any]]:
    """What each way reached on the rows that `prepare` wrote once for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        if not given.one:
            given.work = Path(folder)
            prepare(given, given.work)
        return run(given, measure)


def show_with_losses(
    given: argparse.Namespace, found: list[dict[str, Any]], columns: list[Column], **more: Any
) -> None:
    """The table, and below it the losses of all steps side by side."""
    show(given, found, columns, **more)
    losses = (f"{row['way']}: {[round(loss, 4) for loss in row['losses']]}" for row in found)
    print("losses by step:", *losses, sep="\n  ")
