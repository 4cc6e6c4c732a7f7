"""What must not change a run: how a batch is cut up, packed, spread over processes, recomputed, or broken off.

The user's own shape at two layers, on a few of the user's own texts, on the CPU.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.model.decoder import Decoder
from danlu.model.parts import initialise, unfused_state
from danlu.model.settings import ModelSettings
from danlu.tokens.batch import Batch, Placed, Shape, make_batch
from danlu.tokens.shards import DOCUMENTS
from danlu.tokens.stream import Step
from danlu.train import checkpoint, parallel
from danlu.train.meter import Meter
from danlu.train.network import Network, block_matrices, build
from danlu.train.objectives.base import Needs, Objective
from danlu.train.optim import Optimizer, clip
from danlu.train.precision import DTYPES, LossScale
from danlu.train.settings import TrainSettings
from danlu.train.step import Stepper

if TYPE_CHECKING:
    from danlu.tokens.stream import Stream

EXAMPLES = 8
TOKENS = 24  # of a text: enough for every kind of target, few enough for a minute
SPARE = 64  # rows of the vocabulary that no text uses
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-5}
HALF_SLACK = 1.03  # of the plain way's distance: sums in another order round a little differently


@dataclass(frozen=True)
class Check:
    """One comparison: how far loss and gradient are from the plain way's, relative to its loss and gradient norm."""

    name: str
    passed: bool
    measured: float
    limit: float


@dataclass(frozen=True)
class Sample:
    """Shortened texts of a few examples, two for a pair; token ids are renumbered to leave out what does not occur."""

    shape: ModelSettings
    objective: Objective
    examples: list[list[Placed]]

    @classmethod
    def of(cls, shape: ModelSettings, objective: Objective, stream: Stream) -> Sample:
        """The first `EXAMPLES` of the stream whose every text has a target; raises ValueError where there is none."""
        found: list[list[Placed]] = []
        for taken in stream.examples(0, min(stream.total, 50 * EXAMPLES)):
            texts = [_shortened(text) for text in taken.documents[: DOCUMENTS[stream.unit]]]
            if texts and all(text.encoded.weights[1:].any() for text in texts) and len(found) < EXAMPLES:
                found.append(texts)
        if not found:
            raise ValueError("no example has a token in the loss")
        known = np.unique(np.concatenate([text.encoded.tokens for texts in found for text in texts]))
        small = {"layers": 2, "vocab_size": len(known) + SPARE}
        renumbered = [
            [_renumbered(text, known, len(texts) * number + side, number) for side, text in enumerate(texts)]
            for number, texts in enumerate(found)
        ]
        return cls(shape.model_copy(update=small), objective, renumbered)


@dataclass(frozen=True)
class Way:
    """A way to compute the same step: examples in a micro-batch, and what else is different."""

    name: str
    together: int = EXAMPLES
    packed: bool = False
    plain_head: bool = False
    recompute: bool = False
    processes: int = 1


PLAIN = Way("plain head", plain_head=True)
WAYS = (
    Way("fused head, all examples at once"),
    Way("one example at a time, accumulated", together=1),
    Way("packed end to end", packed=True),
    Way("activations recomputed", recompute=True),
    Way("two processes, sharded", together=2, processes=2),
)


class PlainNetwork(Network):
    """Decoder and head as one writes them down: all logits at once."""

    def forward(self, batch: Batch[Tensor], needs: Needs, factor: float = 1.0) -> dict[str, Tensor]:
        if needs == "value":
            assert self.decoder.reward is not None
            last_D = batch.cu[1:].long() - 1
            hidden_DW, weight_W = self.hidden(batch)[last_D], self.decoder.reward.score.weight[0]
            return {"value": (hidden_DW * weight_W.to(torch.promote_types(hidden_DW.dtype, torch.float32))).sum(-1)}
        labels_N, hidden_ND = self.targets(batch)
        logits_NV = self.decoder.head.logits(hidden_ND)
        wide = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
        logp_N = logits_NV.to(wide).log_softmax(-1).gather(-1, labels_N[:, None]).squeeze(-1)
        nll = -(logp_N * batch.target_weights).sum() * factor
        return {"nll": nll, "logp": logp_N, "correct": logits_NV.argmax(-1) == labels_N}


def run_invariances(shape: ModelSettings, objective: Objective, stream: Stream, precision: str = "bf16") -> list[Check]:
    """All comparisons, for a decoder of `shape` cut down to two layers, random weights and texts of `stream`.

    float64 to 1e-9, float32 to 1e-5 of the gradient norm; the 16 bits of a `precision` that has them (bf16 for float8)
    no further from float32 than the plain way in them is; a run that was saved and restored to the bit.
    """
    sample = Sample.of(shape, objective, stream)
    dtypes = tuple(dict.fromkeys((*LIMITS, DTYPES[precision])))
    spread = [way for way in WAYS if way.processes > 1]
    found = {(way, dtype): result for way in spread for dtype, result in _in_processes(sample, way, dtypes).items()}
    checks = []
    exact = {dtype: gradient(sample, PLAIN, dtype) for dtype in LIMITS}
    rounded = {
        dtype: distance(gradient(sample, PLAIN, dtype), exact[torch.float32]) for dtype in dtypes if dtype not in LIMITS
    }
    for way in WAYS:
        for dtype in dtypes:
            result = found[way, dtype] if way.processes > 1 else gradient(sample, way, dtype)
            measured = distance(result, exact.get(dtype, exact[torch.float32]))
            limit = LIMITS[dtype] if dtype in LIMITS else HALF_SLACK * rounded[dtype]
            name = f"{way.name}, {str(dtype).removeprefix('torch.')}"
            checks.append(Check(name, measured <= limit, measured, limit))
    changed = _resumed(sample)
    return [*checks, Check("saved and resumed, float32", changed == 0.0, changed, 0.0)]


def gradient(sample: Sample, way: Way, dtype: torch.dtype, world: parallel.World | None = None) -> dict[str, Tensor]:
    """Loss under "loss" and gradients under unfused names, float64; on several processes all call this together."""
    world = world or parallel.World(0, 1, torch.device("cpu"))
    stepper, decoder = _stepper(sample, way, dtype, world)
    step = _step(sample, way, world)
    sums = world.total(_accumulated(stepper, step))
    metrics = sample.objective.report(
        dict(zip(sample.objective.sums, sums, strict=True)), sample.objective.normaliser(step), 0
    )
    made = {name: value.grad for name, value in stepper.masters.parameters.items() if value.grad is not None}
    full = {name: value.double() for name, value in stepper.masters.whole(made)}
    return {"loss": torch.tensor(metrics["loss"]).double(), **unfused_state(decoder, full)}


def _accumulated(stepper: Stepper, step: Step) -> list[float]:
    """Leaves the gradient in the masters, from the greatest loss scale at which it is finite, as a run in fp16 does."""
    while True:
        sums = stepper.accumulate(step)
        norm = clip(stepper.masters.gradients(), None, stepper.scale.value, stepper.masters.norm)
        if math.isfinite(norm) or stepper.scale.value <= 1.0:
            return sums
        stepper.masters.clear_gradients()
        stepper.scale.update(finite=False)


def distance(found: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """The greater of the relative distances of the losses and of the whole gradients."""
    names = reference.keys() - {"loss"}
    apart = math.sqrt(sum(float((found[name] - reference[name]).square().sum()) for name in names))
    norm = math.sqrt(sum(float(reference[name].square().sum()) for name in names))
    loss = abs(float(found["loss"] - reference["loss"])) / abs(float(reference["loss"]))
    return max(apart / norm, loss)


def _stepper(
    sample: Sample, way: Way, dtype: torch.dtype, world: parallel.World, settings: TrainSettings | None = None
) -> tuple[Stepper, Decoder]:
    settings = settings or TrainSettings(recompute=way.recompute, compile=False, sharding="full")
    decoder = Decoder.empty(sample.shape, torch.float64 if dtype == torch.float64 else torch.float32)
    initialise(decoder, seed=0)
    blank = Decoder.empty(sample.shape, device="meta")
    network, masters = build(decoder, settings, world, dtype, PlainNetwork if way.plain_head else Network)
    optimizer = Optimizer(settings, masters.parameters, block_matrices(blank))
    meter = Meter(sample.shape, TOKENS, world)
    return Stepper(network, sample.objective, masters, optimizer, LossScale(dtype), world, meter), blank


def _step(sample: Sample, way: Way, world: parallel.World) -> Step:
    texts = [text for texts in sample.examples for text in texts]
    learned, aside = (
        [[text for text in texts if (text.chosen < 0) == other] for texts in sample.examples] for other in (False, True)
    )
    batches = _batches(learned, texts, way, sample.shape.vocab_size)
    others = _batches(aside, texts, way, sample.shape.vocab_size) if any(aside) else []
    weight_sum = float(sum(batch.target_weights.sum(dtype=np.float64) for batch in batches))
    pairs = sum(len(texts) == 2 for texts in sample.examples)
    ranks = slice(world.rank, None, world.size)
    return Step(
        batches[ranks], 0, weight_sum, len(sample.examples), pairs, sum(map(len, texts)), 0, 0.0, aside=others[ranks]
    )


def _batches(examples: list[list[Placed]], texts: list[Placed], way: Way, vocabulary: int) -> list[Batch[np.ndarray]]:
    groups = [_runs(some, way.packed) for some in _chunks(examples, way.together)]
    rows = max(sum(-(-sum(map(len, run)) // TOKENS) for run in runs) for runs in groups)
    reference = np.zeros(len(texts), np.float64)
    for text in texts:  # what a decoder that knows nothing would say
        reference[text.index] = -math.log(vocabulary) * np.count_nonzero(text.encoded.weights[1:])
    shape = Shape(rows, TOKENS, TOKENS)
    return [make_batch(runs, shape, None, {"reference": [reference]}) for runs in groups]


def _runs(examples: Sequence[list[Placed]], packed: bool) -> list[list[Placed]]:
    """Texts end to end, crossing from row to row; or each on rows of its own."""
    texts = [text for example in examples for text in example]
    return [texts] if packed else [[text] for text in texts]


def _chunks(examples: list[list[Placed]], size: int) -> Iterator[list[list[Placed]]]:
    return (examples[start : start + size] for start in range(0, len(examples), size))


def _resumed(sample: Sample) -> float:
    """The greatest difference of weights and moments after four steps in one go, and two, a checkpoint and two more."""
    way, world = WAYS[0], parallel.World(0, 1, torch.device("cpu"))
    step = _step(sample, way, world)
    settings = TrainSettings(learning_rate=1e-3, compile=False)
    begin, blank = _stepper(sample, way, DTYPES["float32"], world, settings)
    again, _ = _stepper(sample, way, DTYPES["float32"], world, settings)
    state: dict[str, Any] = {"step": 2, "epoch": 0.0, "held_out_loss": None, "fingerprints": {}}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4):
            begin.take(step, settings.learning_rate, settings.clip)
            if number == 1:
                snapshot = checkpoint.take_snapshot(begin.masters, begin.optimizer, world)
                path = checkpoint.write_checkpoint(Path(folder), snapshot, state, blank, None, (), torch.float32)
                checkpoint.restore(path, blank, again.masters, again.optimizer, begin.optimizer.updates)
    for _ in range(2):
        again.take(step, settings.learning_rate, settings.clip)
    mine, other = (checkpoint.take_snapshot(run.masters, run.optimizer, world) for run in (begin, again))
    pairs = [(mine.parameters, other.parameters), *((mine.moments[name], other.moments[name]) for name in mine.moments)]
    return max(float((a[name] - b[name]).abs().max()) for a, b in pairs for name in a)


def _in_processes(sample: Sample, way: Way, dtypes: tuple[torch.dtype, ...]) -> dict[torch.dtype, dict[str, Tensor]]:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        torch.multiprocessing.spawn(_process, (sample, way, dtypes, port, folder), nprocs=way.processes)
        return {dtype: load_file(Path(folder) / str(dtype)) for dtype in dtypes}


def _process(rank: int, sample: Sample, way: Way, dtypes: tuple[torch.dtype, ...], port: int, folder: str) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // way.processes))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(way.processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = parallel.join("cpu")
    for dtype in dtypes:
        found = gradient(sample, way, dtype, world)
        if world.main:
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, Path(folder) / str(dtype))
    world.wait()


def _shortened(text: Placed) -> Placed:
    """The `TOKENS` tokens up to the last target."""
    targets = np.flatnonzero(text.encoded.weights)
    end = int(targets[-1]) + 1 if len(targets) else len(text)
    here = slice(max(0, end - TOKENS), end)
    encoded = replace(text.encoded, tokens=text.encoded.tokens[here], weights=text.encoded.weights[here])
    return replace(text, encoded=encoded)


def _renumbered(text: Placed, known: np.ndarray, index: int, pair: int) -> Placed:
    tokens = np.searchsorted(known, text.encoded.tokens).astype(np.uint32)
    return replace(text, encoded=replace(text.encoded, tokens=tokens), source=0, index=index, pair=pair)
