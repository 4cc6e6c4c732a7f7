"""The heaviest micro-batch that a run can meet, tried before the run: full rows with every token in the loss."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from danlu.model.decoder import Decoder
from danlu.model.pour import free_bytes
from danlu.model.settings import ModelSettings
from danlu.tokens.batch import Placed, make_batch
from danlu.tokens.encode import Encoded
from danlu.tokens.stream import Step, Stream
from danlu.train.memory import activation_bytes, fitting_rows, state_bytes
from danlu.train.meter import Meter
from danlu.train.network import block_matrices, build
from danlu.train.objectives.base import Objective
from danlu.train.optim import Optimizer
from danlu.train.parallel import World
from danlu.train.precision import DTYPES, LossScale
from danlu.train.settings import TrainSettings
from danlu.train.step import Stepper

ROUNDS = 2  # timed, after one that pays for compilation and the first allocations


@dataclass(frozen=True)
class Load:
    """What the heaviest micro-batch took: its rows, bytes at the peak, and tokens a second with the update."""

    rows: int
    peak_bytes: int
    tokens_per_second: float


def lacking_memory(settings: TrainSettings, shape: ModelSettings, stream: Stream) -> str | None:
    """On a CPU: why `heaviest` cannot be tried there, if so. A GPU that is too small says so itself, and harmlessly."""
    if torch.cuda.is_available():
        return None
    here = World(0, 1, torch.device("cpu"))
    rows = settings.rows or fitting_rows(settings, shape, stream, here)
    needed = state_bytes(settings, shape, 1) + rows * stream.length * activation_bytes(settings, shape)
    free = free_bytes(here.device)
    if needed <= free:
        return None
    return f"needs about {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free here"


def heaviest(settings: TrainSettings, objective: Objective, decoder: Decoder, stream: Stream) -> Load:
    """Trains a throw-away step on full rows, on the device that would train; `decoder` is used up.

    Raises torch.OutOfMemoryError where it does not fit.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = World(0, 1, device)
    rows = settings.rows or fitting_rows(settings, decoder.settings, stream, world)
    step = _full(stream, rows, decoder.settings.vocab_size)
    blank = Decoder.empty(decoder.settings, device="meta")
    network, masters = build(decoder, settings, world)
    optimizer = Optimizer(settings, masters.parameters, block_matrices(blank))
    meter = Meter(decoder.settings, stream.length, world)
    scale = LossScale(DTYPES[settings.precision])
    stepper = Stepper(network, objective, masters, optimizer, scale, world, meter)
    stepper.take(step, 0.0, settings.clip)
    start = time.monotonic()
    for _ in range(ROUNDS):
        stepper.take(step, 0.0, settings.clip)
    return Load(rows, _peak(device), ROUNDS * rows * stream.length / (time.monotonic() - start))


def _full(stream: Stream, rows: int, vocabulary: int) -> Step:
    """One micro-batch whose every row is one text, or half a pair, in which every token counts; and, where answers are
    labelled by themselves, another of answers to other prompts.
    """
    random, length = np.random.default_rng(0), stream.length
    pairs, labelled = stream.unit == "pair", stream.unit == "labelled"
    empty = np.zeros(0, np.int32)
    texts = [
        Placed(
            Encoded(
                random.integers(0, vocabulary, length).astype(np.uint32),
                np.ones(length, np.float32),
                empty,
                empty.astype(np.uint8),
                empty.astype(np.uint8),
                empty.astype(np.int16),
                length,
            ),
            source=0,
            index=row,
            pair=row // 2 if pairs else row if labelled else -1,
            chosen=1 - row % 2 if pairs or labelled else 0,
        )
        for row in range(rows - rows % 2 if pairs else rows)
    ]
    columns = {"reference": [np.full(rows, -float(length), np.float32)]} if pairs or labelled else {}
    shape = stream.shape(rows)
    batch = make_batch([[text] for text in texts], shape, None, columns)
    aside = [make_batch([[replace(text, chosen=-1)] for text in texts], shape, None, columns)] if labelled else []
    weight = float(batch.target_weights.sum(dtype=np.float64))
    compared = len(texts) // 2 if pairs else len(texts) if labelled else 0
    return Step([batch], 0, weight, len(texts), compared, rows * length, 0, 0.0, aside=aside)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
