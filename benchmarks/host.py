"""What the host costs a run on the GPU: waiting for data, saving, logging and guard; and what data costs as it grows.

    python benchmarks/host.py --tokenizer FOLDER [--steps 96] [--save-every 45] [--sizes 1,100] [--json FILE] [WAY ...]

The loop trains the 1B shape on packed documents with a full checkpoint (float32 weights and moments) every so many
steps; `bare` is the same loop without metrics file, guard and clocks, and without saving. The data part needs no GPU:
steps of 96 windows at places all over token sets of so many GB, whose shards are links to one file, so nothing but
their number grows; bytes are read from the page cache.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import start
from chain import Column, parser, run, show
from danlu.config import check
from danlu.ledger.metrics import read_metrics
from danlu.recipe.build import build_stages
from danlu.recipe.job import TrainingJob, run_job
from danlu.recipe.settings import load_recipe
from danlu.tokens.characters import TokenBytes
from danlu.tokens.shards import TokenSet
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Stream
from danlu.train import health, journal, loop, meter
from danlu.train.objectives.next_token import NextToken
from danlu.train.parallel import World
from danlu.train.settings import TrainSettings
from fine_tuning import _Timed, length_of
from packed import synthetic_set
from training import SHAPE

LOOPS = ("the loop", "the loop, bare")
COLUMNS: list[Column] = [
    ("step s", "step", ".4f"),
    ("waits for data", "data", ".3%"),
    ("outside of phases", "outside", ".3%"),
    ("save stall s", "stall", ".2f"),
    ("all after save s", "stall_in_all", ".2f"),
    ("host GiB", "host_gib", ".1f"),
]
DATA: list[Column] = [
    ("GB", "gigabytes", ".0f"),
    ("shards", "shards", ".0f"),
    ("open s", "open", ".2f"),
    ("first us/token", "first", ".3f"),
    ("us/token", "microseconds", ".3f"),
    ("host GiB", "host_gib", ".2f"),
    ("growth MiB", "growth_mib", ".1f"),
]
WARM = 3


class _Run(_Timed):
    """The loop with a clock behind each step, and its saving."""

    _save = loop.Run._save


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    return _data(float(way.split()[1]), given) if way.startswith("data") else _loop(way, given)


def _loop(way: str, given: argparse.Namespace) -> dict[str, Any]:
    bare, out = way.endswith("bare"), given.work / "run" / "pretrain"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    recipe = load_recipe(
        given.work / "recipe.yaml",
        [
            f"pretrain.train.steps={given.steps}",
            f"pretrain.train.save.every={0 if bare else given.save_every}",
            "pretrain.train.save.keep_last=1",
            f"pretrain.train.save.weights_only={json.dumps(bare)}",
        ],
    )
    (found,) = (one for one in build_stages(recipe) if one.name == "pretrain")
    loop.Run = _Run  # type: ignore[misc]
    if bare:
        _without_clocks()
    run_job(check(TrainingJob, found.settings), out)
    steps = [b - a for a, b in pairwise(_Timed.ends)]
    saved = set() if bare else set(range(given.save_every, given.steps, given.save_every))
    # steps[i] ends step i + 2; the save after step s falls into it where i + 1 == s
    usual = statistics.median(seconds for at, seconds in enumerate(steps) if at >= WARM and at + 1 not in saved)
    stalls = [steps[at - 1] - usual for at in saved]
    spans = [steps[at - 1 : at - 1 + given.save_every] for at in saved]
    rows = [] if bare else [row for row in read_metrics(out / "metrics.jsonl") if "loss" in row]
    calm = [(before, row, seconds) for (before, row), seconds in zip(pairwise(rows), steps, strict=False)][WARM:]
    shares = [1 - _phase_seconds(before, row) / seconds for before, row, seconds in calm if row["time_saving"] < 1e-3]
    return {
        "step": usual,
        "data": statistics.mean(row["time_data"] for _, row, _ in calm) if calm else None,
        "outside": statistics.median(shares) if shares else None,
        "stall": max(stalls, default=None) if stalls else None,
        "stalls": stalls,
        "stall_in_all": max(sum(span) - usual * len(span) for span in spans) if spans else None,
        "host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _phase_seconds(before: dict[str, Any], row: dict[str, Any]) -> float:
    """Seconds of data, compute and optimizer in a step, from the rate that the meter gave."""
    return (row["tokens"] - before["tokens"]) / row["useful_share"] / row["tokens_per_second"]


def instruments(micro_batches: int = 4, documents: int = 140, steps: int = 300) -> float:
    """CPU seconds of one step's clocks, both MFU, health and row of metrics; without a GPU's events, some 2 us each."""
    here = World(0, 1, torch.device("cpu"))
    watch, well, values = meter.Meter(SHAPE, 1024, here, ceiling=8e14), health.Health(), journal.SCHEMA
    work = meter.Work(98_304, 98_304, 96, [700] * documents)
    phases = ["data", *["forward", "backward"] * micro_batches, "communication", "communication", "optimizer", "saving"]
    with (
        tempfile.TemporaryDirectory() as folder,
        journal.Journal(Path(folder), NextToken(), TrainSettings(), {}, 0, here) as rows,
    ):
        begin = time.process_time()
        for number in range(steps):
            for name in phases:
                with watch.phase(name):
                    pass
            well.observe(3.0, 1.0, 1.0)
            rows.write(number, **dict.fromkeys(values, 1.0), loss=3.0, bits_per_byte=1.0, **watch.read(work, 1000))
        return (time.process_time() - begin) / steps


def _without_clocks() -> None:
    @contextmanager
    def phase(self: meter.Meter, name: str) -> Iterator[None]:
        yield

    meter.Meter.phase = phase  # type: ignore[method-assign]
    meter.Meter.read = lambda *_: {}  # type: ignore[assignment,method-assign]
    journal.Journal.write = lambda *_, **__: None  # type: ignore[assignment,method-assign]
    health.Health.observe = lambda *_: True  # type: ignore[assignment,method-assign]


def _data(gigabytes: float, given: argparse.Namespace) -> dict[str, Any]:
    vocabulary, length = 151_936, length_of(given.tiny)
    spelling = Spelling(TokenBytes.of([b"a"] * vocabulary), np.zeros(vocabulary, bool))
    folder = given.work / f"set-{gigabytes:g}"
    if not folder.exists():
        synthetic_set(folder, int(gigabytes * 1e9) // 4, spelling=spelling, tokenizer="none", copies=False)
    began = time.perf_counter()
    stream = Stream([(TokenSet.open(folder), 1.0)], length=length, unit="window", pack="concat")
    stream.step(0, 1)
    opened, windows = time.perf_counter() - began, 96
    first, again, memory = [], [], []
    places = np.random.default_rng(0).integers(0, stream.total - 9 * windows, given.places)
    for place in places:
        position = int(place)
        for number in range(9):
            begin = time.perf_counter()
            step = stream.step(position, windows, rows=24)
            (again if number else first).append((time.perf_counter() - begin) / step.tokens * 1e6)
            position = step.consumed
        memory.append(_resident())
    return {
        "gigabytes": gigabytes,
        "shards": len(stream.sets[0].shards),
        "open": opened,
        "first": statistics.median(first),
        "microseconds": statistics.median(again),
        "host_gib": memory[-1] / 2**30,
        "growth_mib": (memory[-1] - memory[len(memory) // 4]) / 2**20,
    }


def _resident() -> int:
    """Anonymous memory of this process in bytes; mapped files are the page cache's."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def main() -> None:
    options = parser(__doc__, LOOPS)
    options.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer's folder (Qwen2.5)")
    options.add_argument("--gigabytes", type=float, default=1.0, help=argparse.SUPPRESS)
    options.add_argument("--steps", type=int, default=96)
    options.add_argument("--save-every", type=int, default=45)
    options.add_argument("--places", type=int, default=12, help="places of a token set that are read at")
    options.add_argument("--sizes", default="1,100", help="GB of the token sets")
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        run(given, measure)
    with tempfile.TemporaryDirectory() as folder:
        given.work, given.tokenizer = Path(folder), given.tokenizer.resolve()
        start.prepare(given, given.work)
        loops = run(given, measure)
        given.ways = [f"data {size} GB" for size in given.sizes.split(",")]
        data = run(given, measure)
    show(given, loops, COLUMNS)
    print(f"clocks, MFU, health and metrics, counted: {instruments() * 1e3:.2f} ms a step")
    if len(loops) == 2 and all("step" in row for row in loops):
        print(f"metrics, guard and clocks cost {loops[0]['step'] / loops[1]['step'] - 1:.2%} of a step")
    show(given, data, DATA, loops=loops)


if __name__ == "__main__":
    main()
