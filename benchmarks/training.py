"""Tokens a second of whole training steps (data, forward, backward, clip, update) on random documents.

    python benchmarks/training.py [1B|7B] [KEY=VALUE ...]     settings of TrainSettings, such as rows=24 recompute=true
    torchrun --nproc-per-node=2 benchmarks/training.py ...    several GPUs

1B is mini_qwen's shape (998,810,624 parameters) in rows of 1,024 tokens, 7B that of pretraining.py in rows of 4,096;
bf16 with float32 masters, AdamW.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from danlu.model.decoder import Decoder
from danlu.model.settings import ModelSettings
from danlu.tokens.characters import TokenBytes
from danlu.tokens.encode import Encoded
from danlu.tokens.prefetch import Prefetcher
from danlu.tokens.shards import Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Step, Stream
from danlu.train import parallel, schedule
from danlu.train.memory import fitting_rows, with_sharding
from danlu.train.meter import Meter
from danlu.train.network import block_matrices, build
from danlu.train.objectives.next_token import NextToken
from danlu.train.optim import Optimizer
from danlu.train.precision import DTYPES, LossScale
from danlu.train.settings import TrainSettings
from danlu.train.step import Stepper, work_of
from random_weights import random_decoder

SHAPE = ModelSettings(
    family="qwen2", vocab_size=151_936, hidden_size=1_024, layers=48, heads=16, kv_heads=4, mlp_size=4_864
)
SEVEN = ModelSettings(
    family="llama",
    vocab_size=64_000,
    hidden_size=4_096,
    layers=32,
    heads=32,
    mlp_size=11_008,
    tie_embeddings=False,
)
TINY = ModelSettings(family="llama", vocab_size=512, hidden_size=64, layers=2, heads=4, mlp_size=128)


class Case(NamedTuple):
    """A shape, its rows and its documents: all of one length, or of exponential lengths with that mean."""

    shape: ModelSettings
    length: int
    document: int
    exponential: bool = False

    def documents(self, tokens: int) -> list[int]:
        """Lengths of documents of at least so many tokens in all."""
        if not self.exponential:
            return [self.document] * -(-tokens // self.document)
        lengths = np.random.default_rng(1).exponential(self.document, 2 * tokens // self.document + 64)
        whole = np.maximum(lengths, 16).astype(int)
        return whole[: int(np.searchsorted(whole.cumsum(), tokens)) + 1].tolist()


CASES = {"1B": Case(SHAPE, 1_024, 700), "7B": Case(SEVEN, 4_096, 1_500, True), "tiny": Case(TINY, 64, 40, True)}
STEPS, WARM = 10, 4


def random_windows(folder: Path, tokens: int, case: Case) -> Stream:
    """Documents of random tokens, end to end in windows."""
    random, none, vocabulary = np.random.default_rng(0), np.zeros(0, np.int32), case.shape.vocab_size
    spelling = Spelling(TokenBytes.of([b"a"] * vocabulary), np.zeros(vocabulary, bool))
    with TokenSetWriter(folder, "document", spelling, tokenizer="none") as writer:
        for number, length in enumerate(case.documents(tokens)):
            text = random.integers(0, vocabulary, length).astype(np.uint32)
            encoded = Encoded(text, np.ones(length, np.float32), none, none, none, none, length)
            writer.add(Example([encoded], "random", number))
    return Stream([(TokenSet.open(folder), 1.0)], length=case.length, unit="window", pack="concat")


class Run:
    """A run of the loop's own parts over random documents; iterating gives each step and the meter's row."""

    def __init__(self, settings: TrainSettings, case: Case = CASES["1B"], steps: int = STEPS) -> None:
        shape, self.world = case.shape, parallel.join()
        self.settings = settings = with_sharding(settings, shape, self.world)
        self.folder = tempfile.TemporaryDirectory()
        decoder = random_decoder(shape, torch.float32, self.world.device)
        self.stream = random_windows(Path(self.folder.name), steps * settings.batch * case.length, case)
        self.rows = settings.rows or fitting_rows(settings, shape, self.stream, self.world)
        blank = Decoder.empty(shape, device="meta")
        network, masters = build(decoder, settings, self.world)
        optimizer = Optimizer(settings, masters.parameters, block_matrices(blank))
        dtype = DTYPES[settings.precision]
        self.meter = Meter(shape, case.length, self.world)
        self.stepper = Stepper(network, NextToken(), masters, optimizer, LossScale(dtype), self.world, self.meter)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    def __iter__(self) -> Iterator[tuple[Step, dict[str, float]]]:
        plan = schedule.Plan.of(self.settings, self.stream.total)
        world = self.world
        micro = schedule.steps(self.stream, self.settings, plan, 0, 0, world.rank, world.size, self.rows)
        with Prefetcher(micro) as prefetched:
            for step in prefetched:
                outcome = self.stepper.take(step, 1e-4, self.settings.clip)
                row = self.meter.read(work_of(step), 0)
                yield step, {**row, "loss": outcome.sums["nll"] / step.weight_sum, "rows": self.rows}


def case_and_settings(arguments: list[str]) -> tuple[Case, TrainSettings]:
    """The shape that is named, 1B where none is, and the settings beside it."""
    case = next((CASES[name] for name in arguments if name in CASES), CASES["1B"])
    return case, settings_from_arguments([item for item in arguments if item not in CASES])


def settings_from_arguments(arguments: list[str]) -> TrainSettings:
    given = dict(item.split("=", 1) for item in arguments)
    values = {"batch": 96, "precision": "bf16", **{key: value_of(text) for key, text in given.items()}}
    return TrainSettings.model_validate_json(json.dumps(values))


def value_of(text: str) -> Any:
    """What a setting says: JSON, or the words themselves."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main() -> None:
    if {"-h", "--help"} & {*sys.argv}:
        print(__doc__)
        return
    case, settings = case_and_settings(sys.argv[1:])
    with Run(settings, case) as run:
        steady = [row for _, row in run][WARM:]
    if run.world.main:
        print(json.dumps({name: statistics.median(row[name] for row in steady) for name in steady[0]}, indent=1))
        print(
            f"{torch.cuda.get_device_name() if run.world.device.type == 'cuda' else 'CPU'}, torch {torch.__version__}"
        )


if __name__ == "__main__":
    main()
