"""`--dry-run`: what a recipe would do, and what it would take, before anything is spent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Column, Table

from danlu.config import check
from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.ledger.progress import brief, duration, memory_size
from danlu.model.settings import parameters, training_flops
from danlu.recipe.build import build_stages
from danlu.recipe.graph import Stage, notices, state
from danlu.recipe.plan_words import WORDS
from danlu.recipe.settings import Recipe, TrainingStage
from danlu.recipe.starts import starting_shape
from danlu.text.files import source_files
from danlu.text.settings import SourceSettings
from danlu.text.survey import text_bytes
from danlu.tokens.mixing import Portion, portions
from danlu.tokens.pack import folder_names
from danlu.tokens.settings import DataSettings, StageName
from danlu.train.tune_settings import trained_share

BYTES_A_TOKEN = 3.9  # zh and en text under a 151k vocabulary, measured on the shared corpora
USEFUL_SHARE = 0.4  # of the measured matrix product that a small model's training reaches
PASSES = {"dpo": 4 / 3}
"""Over the packed tokens, both answers of a pair among them: a forward pass of the reference is a third. In kto half of
the tokens are only looked at, which comes to one pass.
"""


@dataclass(frozen=True)
class Mix:
    """What one training stage will see of each source, and whether that was counted or only estimated."""

    portions: dict[str, Portion]
    measured: bool


@dataclass(frozen=True)
class Cost:
    """What one training stage is expected to take."""

    tokens: float | None
    """None: they depend on text that is not there yet."""
    about: str
    """What stands before the number: nothing where it was counted."""
    parameters: int
    memory: int
    disk: float
    seconds: float | None


def print_plan(recipe: Recipe) -> None:
    """Prints each stage's state and, for training, tokens, memory, disk and time on this machine."""
    console, words = Console(), WORDS[recipe.language]
    stages = {stage.name: stage for stage in build_stages(recipe)}
    table = Table(*_whole(words, "stage", "state"), words["input"], title=recipe.name)
    figures = _whole(words, "stage", "tokens", "parameters", "memory", "checkpoints", "time")
    taken = Table(*figures, title=words["takes"])
    rate, mixes = matmul_rate() if recipe.training() else 0.0, dict[str, Mix]()
    for name, stage in stages.items():
        table.add_row(name, words[state(stage, [*stages.values()])], _input(stage, words))
        section = recipe.training().get(name)
        if section is not None:
            mixes[name] = mix_of(section, stages[f"pack/{name}"])
            cost = estimate(recipe, name, section, mixes[name], rate)
            taken.add_row(
                name,
                words["not there"] if cost.tokens is None else f"{cost.about}{brief(cost.tokens)}",
                brief(cost.parameters),
                memory_size(cost.memory),
                f"{brief(cost.disk)}B",
                "" if cost.seconds is None else f"{cost.about}{duration(cost.seconds)}",
            )
    console.print(table)
    for notice in notices([*stages.values()], recipe.language):
        console.print(notice, markup=False, soft_wrap=True)
    if not mixes:
        return
    console.print(taken)
    console.print(_mix_table(mixes, words))
    how = words["how"].format(share=USEFUL_SHARE, rate=rate / 1e9, bytes=BYTES_A_TOKEN)
    console.print(how, markup=False)


def mix_of(section: TrainingStage, pack: Stage) -> Mix:
    """What training will see of each source; exact once all of them are packed."""
    settings = check(DataSettings, pack.settings["data"])
    names = folder_names(settings.sources)
    packed = (read_manifest(pack.folder) or {}).get("sources", {})
    measured = all(name in packed for name in names)
    tokens = [
        packed[name]["train"]["tokens"] if measured else round(_size(source) / BYTES_A_TOKEN)
        for name, source in zip(names, settings.sources, strict=True)
    ]
    return Mix(dict(zip(names, portions(settings, tokens, section.train.epochs), strict=True)), measured)


def estimate(recipe: Recipe, name: str, section: TrainingStage, mix: Mix, rate: float) -> Cost:
    """The cost of one training stage."""
    from danlu.recipe.memory import gpu_here, planned
    from danlu.train.checkpoint import expected_bytes

    shape, train = starting_shape(recipe, name), section.train
    tokens, about = expected_tokens(section, mix, section.data.unit(cast(StageName, name)))
    length = section.data.length
    # Of a frozen weight no gradient is made; recomputation is a forward pass more.
    passes = (2 + trained_share(train.tune, shape)) / 3 * PASSES.get(name, 1.0) + train.recompute / 3
    flops = training_flops(shape, [length]) / length * passes
    memory = planned(recipe, name, gpu_here()).memory.total
    kept = section.train.save.keep_last + section.train.save.keep_best
    if section.train.save.every_epoch:
        kept += round(section.train.epochs)
    disk = expected_bytes(shape, train) * kept
    seconds = None if tokens is None else tokens * flops / (rate * USEFUL_SHARE)
    return Cost(tokens, about, parameters(shape), memory, disk, seconds)


def expected_tokens(section: TrainingStage, mix: Mix, unit: str) -> tuple[float | None, str]:
    """Tokens that training sees, and ≈ unless they were counted: by the text's size, or by `steps`, which end it before
    the text does or are known before the text is there."""
    train, portions = section.train, mix.portions.values()
    seen = sum(of.seen for of in portions) if all(of.tokens for of in portions) else None
    room = section.data.length * (2 if unit == "pair" else 1)
    most = train.steps * train.batch * room if train.steps else None
    if most is not None and (seen is None or most < seen):
        return most, "≈ "
    return seen, "" if mix.measured else "≈ "


def _mix_table(mixes: dict[str, Mix], words: dict[str, str]) -> Table:
    """By source: tokens, their share of the mix, how often they come, and what that makes."""
    figures = _whole(words, "tokens", "share", "epochs", "seen")
    table = Table(*_whole(words, "stage"), Column(words["source"], overflow="fold"), *figures, title=words["sees"])
    for stage, mix in mixes.items():
        about = "" if mix.measured else "≈ "
        for name, of in mix.portions.items():
            known = [f"{about}{brief(of.tokens)}", f"{of.share:.1%}", f"{of.epochs:.3g}", f"{about}{brief(of.seen)}"]
            table.add_row(stage, name, *(known if of.tokens else [words["not there"]]))
    return table


def _whole(words: dict[str, str], *heads: str) -> list[Column]:
    """Columns whose words are never cut, however narrow the terminal is."""
    return [Column(words[head], no_wrap=True) for head in heads]


def matmul_rate() -> float:
    """Floating-point operations a second of a large matrix product on the device that would train."""
    import torch

    device, dtype, side = ("cuda", torch.bfloat16, 8192) if torch.cuda.is_available() else ("cpu", torch.float32, 1024)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rounds, best = 5, float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _input(stage: Stage, words: dict[str, str]) -> str:
    files = [file for path in stage.sources for file in _files(path)]
    if not files:
        return words["comma"].join(needed.name for needed in stage.needs)
    size = sum(file.stat().st_size for file in files)
    return words["files"].format(count=len(files), size=brief(size))


def _size(source: SourceSettings) -> int:
    """About how many bytes of text a source has; 0 while an earlier stage has yet to write it."""
    try:
        return sum(map(text_bytes, source_files(source, None, Counts())))
    except UserError:
        return 0


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
