"""The heaviest micro-batch that a run can meet, tried before the run: full rows with every token in the loss."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from danlu.model.decoder import Decoder
from danlu.model.nf4 import quantise
from danlu.model.pour import free_bytes
from danlu.model.projection import Projection
from danlu.model.settings import ModelSettings
from danlu.tokens.batch import Placed, make_batch
from danlu.tokens.encode import Encoded
from danlu.tokens.stream import Step, Stream
from danlu.train.fewer_rows import fewer_rows
from danlu.train.memory import fitting_rows, most_rows, needs
from danlu.train.meter import Meter
from danlu.train.network import block_matrices, build, in_its_form
from danlu.train.objectives.base import Objective
from danlu.train.optim import Optimizer
from danlu.train.parallel import World
from danlu.train.precision import DTYPES, LossScale
from danlu.train.settings import TrainSettings
from danlu.train.step import DoesNotFit, Stepper
from danlu.train.tune_settings import LoRA, QLoRA

ROUNDS = 2  # timed, after one that pays for compilation and the first allocations


@dataclass(frozen=True)
class Load:
    """What the heaviest micro-batch took: its rows, bytes at the peak, and tokens a second with the update."""

    rows: int
    peak_bytes: int
    tokens_per_second: float
    expected_bytes: int | None
    """What `memory` counts for it; None on a CPU, where a process holds much else."""


def lacking_memory(settings: TrainSettings, shape: ModelSettings, stream: Stream) -> tuple[int, int] | None:
    """On a CPU: bytes that `heaviest` needs and those that are free, where these are fewer. A GPU that is too small
    says so itself, and harmlessly.
    """
    if torch.cuda.is_available():
        return None
    here = World(0, 1, torch.device("cpu"))
    rows = settings.rows or fitting_rows(settings, shape, stream, here)
    needed = needs(settings, shape, None).of(rows, stream.length).total
    free = free_bytes(here.device)
    return (needed, free) if needed > free else None


def random_decoder(settings: TrainSettings, shape: ModelSettings, seed: int) -> Decoder:
    """A decoder that takes what a run's takes while it is loaded: a frozen base goes straight to the device in the
    format that it is computed with, and over 4 bits layer by layer.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen = isinstance(settings.tune, LoRA)
    decoder = Decoder.empty(shape, DTYPES[settings.precision] if frozen else torch.float32, "meta")
    torch.manual_seed(seed)
    for module in [*decoder.blocks, *(module for name, module in decoder.named_children() if name != "blocks")]:
        module.to_empty(device=device)
        for parameter in module.parameters():
            parameter.data.normal_(0.0, shape.init_std) if parameter.ndim > 1 else parameter.data.fill_(1.0)
        for slot in module.children() if isinstance(settings.tune, QLoRA) else ():
            if isinstance(slot, Projection):
                slot.quantise(quantise(slot.weight.data))
    return decoder


def heaviest(settings: TrainSettings, objective: Objective, decoder: Decoder, stream: Stream) -> Load:
    """Trains throw-away steps on full rows, on the device that would train; `decoder` is used up.

    A step that takes several micro-batches takes two here: the second meets the gradients of the first. Where one does
    not fit, rows are halved, as training would.
    Raises UserError where not even the fewest rows fit, torch.OutOfMemoryError where the weights do not.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world, shape, dtype = World(0, 1, device), decoder.settings, DTYPES[settings.precision]
    rows = settings.rows or fitting_rows(settings, shape, in_its_form(stream, settings, shape, device), world)
    blank = Decoder.empty(shape, device="meta")
    network, masters = build(decoder, settings, world)
    optimizer = Optimizer(settings, masters.parameters, block_matrices(blank))
    meter = Meter(shape, stream.length, world)
    stepper = Stepper(network, objective, masters, optimizer, LossScale(dtype), world, meter)
    while True:
        try:
            return _load(stepper, settings, shape, stream, rows)
        except DoesNotFit as error:
            rows = fewer_rows(error, rows, stream.least_rows, "step 1", world)


def _load(stepper: Stepper, settings: TrainSettings, shape: ModelSettings, stream: Stream, rows: int) -> Load:
    count, device = 2 if most_rows(settings, stream.unit) > rows else 1, stepper.world.device
    step = _full(stream, rows, shape.vocab_size, count)
    expected = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        gpu = torch.cuda.mem_get_info(device)[1]
        expected = needs(settings, shape, gpu).of(rows, stream.length).total
    stepper.take(step, 0.0, settings.clip)
    start = time.monotonic()
    for _ in range(ROUNDS):
        stepper.take(step, 0.0, settings.clip)
    seconds = time.monotonic() - start
    return Load(rows, _peak(device), ROUNDS * count * rows * stream.length / seconds, expected)


def _full(stream: Stream, rows: int, vocabulary: int, count: int) -> Step:
    """`count` micro-batches whose every row is one text, or half a pair, in which every token counts; where answers are
    labelled by themselves, as many of answers to other prompts.
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
    columns = {"reference": [np.full(rows, -float(length), np.float64)]} if pairs or labelled else {}
    shape = stream.shape(rows)
    batch = make_batch([[text] for text in texts], shape, None, columns)
    aside = [make_batch([[replace(text, chosen=-1)] for text in texts], shape, None, columns)] if labelled else []
    weight = float(batch.target_weights.sum(dtype=np.float64))
    compared = len(texts) // 2 if pairs else len(texts) if labelled else 0
    seen = count * len(texts), count * compared, count * rows * length
    return Step([batch] * count, 0, count * weight, *seen, 0, 0.0, aside=aside * count)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
