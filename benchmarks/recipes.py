"""The recipes for open models at their full shapes: some steps each on real rows, from random weights on the device.

    python benchmarks/recipes.py --prepare FOLDER --data DATA --tokenizer QWEN    once: rows and words, no GPU needed
    python benchmarks/recipes.py --folder FOLDER [--steps 20] [--batch 8] [--json FILE] [RECIPE ...]

DATA is the shared data, QWEN a folder with Qwen2.5's tokenizer; Baichuan's and Llama's, in their published form, learn
8,192 pieces from the rows. All settings are the recipe's but for these: at most `--batch` examples a step, a warmup
given in steps is a tenth of the run, nothing is held out or saved. Memory counts the model and all of its training.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import fine_tuning
from chain import Column, parser, run, show
from danlu.config import check
from danlu.ledger.metrics import read_metrics
from danlu.model.families.published import PUBLISHED, small
from danlu.model.nf4 import quantise
from danlu.model.settings import ModelSettings, parameters
from danlu.recipe import stand_in
from danlu.recipe.build import build_stages
from danlu.recipe.job import TrainingJob
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe, load_recipe
from danlu.text.settings import SourceSettings
from danlu.tokens.tokenizer import Tokenizer
from danlu.train.precision import DTYPES
from danlu.train.settings import SaveSettings
from danlu.train.tune_settings import LoRA, QLoRA
from random_weights import random_decoder, started_from

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = (
    "firefly_baichuan_7b_qlora",
    "firefly_baichuan2_7b_qlora",
    "baichuan_7b_belle_qlora",
    "baichuan_13b_alpaca_zh_qlora",
    "llama2_7b_qlora",
    "qwen_lora_sft",
    "qwen_dpo_lora",
    "continue_pretrain",
)
ENTRIES = {True: 1_024, False: 8_192}
SPARE = 32  # rows of a source beyond those that the steps take: some are dropped
COLUMNS: list[Column] = [
    ("parameters", "parameters", ",.0f"),
    ("batch", "batch", ".0f"),
    ("rows", "rows", ".0f"),
    ("steps", "steps", ".0f"),
    ("loss 1", "first_loss", ".4f"),
    ("loss end", "last_loss", ".4f"),
    ("tokens/s", "useful_tokens_per_second", ",.0f"),
    ("GiB", "peak_gib", ".1f"),
    ("1st step s", "first_step_seconds", ".1f"),
    ("all s", "seconds", ".1f"),
]


def prepare(given: argparse.Namespace) -> None:
    """Copies the files that the recipes read, and learns tokenizers of both sizes from the first of their rows."""
    shutil.copytree(given.tokenizer, given.prepare / "qwen", dirs_exist_ok=True, copy_function=shutil.copyfile)
    sources: dict[str, list[SourceSettings]] = {}
    for name in given.ways:
        recipe = load_recipe(RECIPES / f"{name}.yaml", [f"data={given.data}", f"out={given.prepare / 'none'}"])
        assert recipe.stand_in is not None
        ((stage, section),) = recipe.training().items()
        for source in section.data.sources:
            for file in given.data.glob(source.path):
                target = given.prepare / "data" / file.relative_to(given.data)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            if stage == "sft":
                whole = source.model_copy(update={"path": str(given.data / source.path)})
                sources.setdefault(PUBLISHED[recipe.stand_in.published].words, []).append(whole)
    for words, own in sources.items():
        for entries in (*ENTRIES.values(),) if words != "qwen" else ():
            out = given.prepare / f"{words}-{entries}"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            stand_in._write_words(words, entries, stand_in._texts(own, "conversation"), out)  # type: ignore[arg-type]


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        recipe, shape = recipe_of(way, given, Path(work))
        ((stage, section),) = recipe.training().items()
        dtype = DTYPES[section.train.precision] if isinstance(section.train.tune, LoRA) else torch.float32
        nf4 = quantise if isinstance(section.train.tune, QLoRA) else None
        with started_from(lambda: random_decoder(shape, dtype, given.device, nf4), shape, Path(work) / "base"):
            run_recipe(recipe, until=f"pack/{stage}")
            (settings,) = (one.settings for one in build_stages(recipe) if one.name == stage)
            found = fine_tuning.ours(check(TrainingJob, settings), recipe.out / stage)
        rows = [row for row in read_metrics(recipe.out / stage / "metrics.jsonl") if "loss" in row]
    steps = [b - a for a, b in pairwise(found["ends"])]
    tokens = [b["tokens"] - a["tokens"] for a, b in pairwise(rows)]
    rates = [count / seconds for count, seconds in zip(tokens, steps, strict=True)]
    return {
        "parameters": parameters(shape),
        "batch": section.train.batch,
        "rows": found["rows"],
        "steps": len(rows),
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "useful_tokens_per_second": statistics.median(rates[fine_tuning.WARM - 1 :]),
        "peak_gib": fine_tuning.peak_gib(given.device),
        "first_step_seconds": found["ends"][0] - found["began"],
        "seconds": time.perf_counter() - began,
        "losses": [row["loss"] for row in rows],
    }


def recipe_of(name: str, given: argparse.Namespace, work: Path) -> tuple[Recipe, ModelSettings]:
    """The recipe over the prepared rows and words, with few steps, and the decoder's shape."""
    more = [f"data={given.folder / 'data'}", f"out={work / 'run'}", f"model.from={work / 'base'}"]
    recipe = load_recipe(RECIPES / f"{name}.yaml", more)
    assert recipe.stand_in is not None and recipe.tokenizer is not None
    published = PUBLISHED[recipe.stand_in.published]
    words = given.folder / ("qwen" if published.words == "qwen" else f"{published.words}-{ENTRIES[given.tiny]}")
    shape = published.shape
    if given.tiny:
        entries = Tokenizer.load(words).vocab_size
        shape = type(published)(small(published.config, entries), published.words).shape
    ((stage, section),) = recipe.training().items()
    train, sources = section.train, section.data.sources
    batch = min(train.batch, given.batch)
    limit = given.steps * batch // len(sources) + SPARE
    few = [source.model_copy(update={"limit": min(source.limit or limit, limit)}) for source in sources]
    calm: dict[str, Any] = {"steps": given.steps, "epochs": 100.0, "batch": batch, "evaluate_every": 0}
    calm |= {"save": SaveSettings(), "warmup": train.warmup if train.warmup < 1 else 0.1}
    if given.device == "cpu":
        calm |= {"precision": "float32"}
    update = {
        "data": section.data.model_copy(update={"sources": few, "held_out": 0}),
        "train": train.model_copy(update=calm),
    }
    tokenizer = recipe.tokenizer.model_copy(update={"path": str(words)})
    section = section.model_copy(update=update)
    return recipe.model_copy(update={"tokenizer": tokenizer, "evaluate": None, stage: section}), shape


def main() -> None:
    options = parser(__doc__, NAMES)
    options.add_argument("--prepare", type=Path, help="where rows and words are written")
    options.add_argument("--data", type=Path, help="the shared data, to prepare from")
    options.add_argument("--tokenizer", type=Path, help="Qwen2.5's tokenizer, to prepare from")
    options.add_argument("--folder", type=Path, help="what was prepared")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--batch", type=int, default=8, help="examples a step at most")
    given = options.parse_args()
    if given.prepare:
        prepare(given)
        return
    given.folder = given.folder.resolve()
    found = run(given, measure)
    show(given, found, COLUMNS)


if __name__ == "__main__":
    main()
