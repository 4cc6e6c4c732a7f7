"""Tokens a second of whole training steps (data, forward, backward, clip, update) on random documents.

    python benchmarks/training.py [KEY=VALUE ...]             settings of TrainSettings, such as rows=24 recompute=true
    torchrun --nproc-per-node=2 benchmarks/training.py ...    several GPUs

The shape is mini_qwen's (998,810,624 parameters), rows of 1,024 tokens, bf16 with float32 masters, AdamW.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.tokens.characters import TokenBytes
from danlu.tokens.encode import Encoded
from danlu.tokens.prefetch import Prefetcher
from danlu.tokens.shards import Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling
from danlu.tokens.stream import Stream
from danlu.train import parallel, schedule
from danlu.train.memory import fitting_rows
from danlu.train.meter import Meter
from danlu.train.network import block_matrices, build
from danlu.train.objectives.next_token import NextToken
from danlu.train.optim import Optimizer
from danlu.train.precision import DTYPES, LossScale
from danlu.train.settings import TrainSettings
from danlu.train.step import Stepper

SHAPE = ModelSettings(
    family="qwen2", vocab_size=151_936, hidden_size=1_024, layers=48, heads=16, kv_heads=4, mlp_size=4_864
)
LENGTH, DOCUMENT = 1_024, 700
STEPS, WARM = 10, 4


def random_windows(folder: Path, tokens: int) -> Stream:
    """Documents of `DOCUMENT` random tokens, end to end in windows."""
    random, none = np.random.default_rng(0), np.zeros(0, np.int32)
    spelling = Spelling(TokenBytes.of([b"a"] * SHAPE.vocab_size), np.zeros(SHAPE.vocab_size, bool))
    with TokenSetWriter(folder, "document", spelling, tokenizer="none") as writer:
        for number in range(-(-tokens // DOCUMENT)):
            text = random.integers(0, SHAPE.vocab_size, DOCUMENT).astype(np.uint32)
            encoded = Encoded(text, np.ones(DOCUMENT, np.float32), none, none, none, none, DOCUMENT)
            writer.add(Example([encoded], "random", number))
    return Stream([(TokenSet.open(folder), 1.0)], length=LENGTH, unit="window", pack="concat")


def main() -> None:
    given = dict(item.split("=", 1) for item in sys.argv[1:])
    values = {"batch": 96, "precision": "bf16", **{key: json.loads(value) for key, value in given.items()}}
    settings = TrainSettings.model_validate_json(json.dumps(values))
    world = parallel.join()
    decoder = Decoder.empty(SHAPE)
    initialise(decoder, 0)
    with tempfile.TemporaryDirectory() as folder:
        stream = random_windows(Path(folder), STEPS * settings.batch * LENGTH)
        rows = settings.rows or fitting_rows(settings, SHAPE, stream, world)
        blank = Decoder.empty(SHAPE, device="meta")
        network, masters = build(decoder, settings, world)
        optimizer = Optimizer(settings, masters.parameters, block_matrices(blank))
        meter = Meter(SHAPE, LENGTH, world.device, world.size)
        stepper = Stepper(network, NextToken(), masters, optimizer, LossScale(DTYPES[settings.precision]), world, meter)
        plan = schedule.Plan.of(settings, stream.total)
        measured = []
        with Prefetcher(schedule.steps(stream, settings, plan, 0, 0, world.rank, world.size, rows)) as prefetched:
            for step in prefetched:
                outcome = stepper.take(step, 1e-4, settings.clip)
                row = meter.read(round(step.tokens / (1 - step.padding)), step.tokens, step.examples, 0)
                measured.append({**row, "loss": outcome.sums["nll"] / step.weight_sum, "rows": rows})
    steady = measured[WARM:]
    if world.main:
        print(json.dumps({name: statistics.median(row[name] for row in steady) for name in steady[0]}, indent=1))
        print(f"{torch.cuda.get_device_name() if world.device.type == 'cuda' else 'CPU'}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
