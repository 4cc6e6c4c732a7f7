"""What sft.py and dpo.py share: the rows of mini_qwen cut to length, both stages' folders, and clocks on both sides."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import torch

from danlu.config import check
from danlu.ledger.metrics import read_metrics
from danlu.model.attention import _each_document, _varlen
from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.recipe.build import build_stages
from danlu.recipe.job import TrainingJob, run_job
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe, load_recipe
from danlu.tokens.stream import Step
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.train import loop
from training import SHAPE

RECIPES = Path(__file__).parents[1] / "recipes" / "mini_qwen_1b"
TINY = ModelSettings(family="qwen2", vocab_size=151_936, hidden_size=32, layers=2, heads=4, kv_heads=2, mlp_size=64)
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

    def _take(self, step: Step, stop: bool) -> bool:
        stopped = super()._take(step, stop)
        self.ends.append(time.perf_counter())
        _Timed.last_rows = self.rows
        return stopped


def ours(job: TrainingJob, out: Path) -> dict[str, Any]:
    """Trains the job as `danlu` would and gives the moments at which steps ended and the losses that it wrote."""
    began, loop.Run = time.perf_counter(), _Timed  # type: ignore[misc]
    run_job(job, out)
    losses = [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]
    return {"began": began, "ends": _Timed.ends, "losses": losses, "rows": _Timed.last_rows}


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
