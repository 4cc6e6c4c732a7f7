"""How fast a run is, where its time goes, and when it will end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from danlu.ledger.metrics import Metric
from danlu.model.settings import ModelSettings, matmul_parameters, training_flops
from danlu.train.clock import Clock
from danlu.train.parallel import World

PHASES = ("data", "forward", "backward", "communication", "optimizer", "saving")
RECENT = 0.1  # weight of the newest step in the rate that tells the time left
WARM = 2  # steps that are left out of the summary: they compile and allocate

# Dense bf16 peak of one device in FLOP/s, from the makers' data sheets; found by a part of the device's name.
PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}

SCHEMA = {
    "tokens_per_second": Metric("tokens/s", "sum over ranks", "computed tokens, padding included"),
    "useful_share": Metric("share", "sum / sum", "tokens that are not padding"),
    "mfu": Metric("share", "mean over ranks", "of the device's bf16 peak; attention counted causally over rows"),
    "mfu_documents": Metric("share", "main rank", "the same with attention counted inside of real documents"),
    "ceiling_share": Metric("share", "main rank", "as mfu_documents, of what a large product reached on this machine"),
    "time_data": Metric("share", "this step, main rank", "time waiting for batches"),
    "time_forward": Metric("share", "this step, main rank", "forward passes"),
    "time_backward": Metric("share", "this step, main rank", "backward passes, recomputation included"),
    "time_communication": Metric(
        "share", "this step, main rank", "exchange between processes; with sharding gradients or full only what is left"
    ),
    "time_optimizer": Metric("share", "this step, main rank", "clipping and the update"),
    "time_saving": Metric("share", "this step, main rank", "checkpoints and held-out evaluation since the last step"),
    "peak_memory": Metric("bytes", "main rank", "most memory that tensors held on the GPU"),
    "seconds_left": Metric("s", "main rank", "time to the end of the run at the recent rate"),
}


@dataclass(frozen=True)
class Work:
    """What a step computed: `computed` tokens on all ranks, of them `real` ones, from `examples`; and the lengths of
    this rank's `documents`, with the `shared` tokens that some of them begin with and that were computed with another.
    """

    computed: int
    real: int
    examples: int
    documents: Sequence[int]
    shared: Sequence[int] = ()


@dataclass(frozen=True)
class Speed:
    """How fast a run was, its first steps left out: tokens/s with padding, and shares as in SCHEMA."""

    tokens_per_second: float
    useful_share: float
    shares: dict[str, float]
    mfu: float | None
    mfu_documents: float | None
    ceiling_share: float | None
    peak_memory: int | None

    def __str__(self) -> str:
        known = {
            "MFU by documents": self.mfu_documents,
            "MFU": self.mfu,
            "of this machine's products": self.ceiling_share,
        }
        told = [f"{share:.1%} {name}" for name, share in known.items() if share is not None]
        parts = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items())
        return "; ".join([f"{self.tokens_per_second:,.0f} tokens/s", *told, parts])


class Meter:
    """Times the phases of each step and turns them into metrics."""

    def __init__(
        self,
        shape: ModelSettings,
        length: int,
        world: World,
        trained: float = 1.0,
        ceiling: float | None = None,
    ) -> None:
        """`trained` is the share of the weights that have gradients: those of the others are not computed. `ceiling` is
        what `ceiling_flops` found.
        """
        self._shape, self._length, self._device, self._world_size = shape, length, world.device, world.size
        self._products = 6 * matmul_parameters(shape)
        self._trained = trained
        self._peak, self._ceiling = peak_flops(world.device), ceiling
        self._clock = Clock(world.device)
        self._seconds_per_example = 0.0
        self._steps = 0
        self._whole: dict[str, float] = {}

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Counts the block's time to one of PHASES, but for phases inside of it."""
        return self._clock.phase(name)

    def read(self, work: Work, examples_left: int) -> dict[str, float]:
        """The metrics of a step; starts the next step's."""
        spent = self._clock.read()
        seconds = max(sum(spent.values()), 1e-9)
        newest = seconds / max(work.examples, 1)
        old = self._seconds_per_example
        self._seconds_per_example = newest if old == 0.0 else old + RECENT * (newest - old)
        self._steps += 1
        if self._steps == WARM + 1:
            self._whole = {}
        step = {
            **dict.fromkeys(PHASES, 0.0),
            **spent,
            "computed": work.computed,
            "real": work.real,
            "causal": self._flops([self._length]) * work.computed / self._length / self._world_size,
            "documents": self._flops(work.documents) - self._flops(work.shared),
        }
        self._whole = {name: self._whole.get(name, 0.0) + value for name, value in step.items()}
        speed = self._speed(step)
        metrics = {
            "tokens_per_second": speed.tokens_per_second,
            "useful_share": speed.useful_share,
            "seconds_left": self._seconds_per_example * examples_left,
            **{f"time_{name}": share for name, share in speed.shares.items()},
        }
        more = {name: getattr(speed, name) for name in ("mfu", "mfu_documents", "ceiling_share", "peak_memory")}
        return metrics | {name: value for name, value in more.items() if value is not None}

    def speed(self) -> Speed | None:
        """The speed of all steps so far but the first ones; None before the first."""
        return self._speed(self._whole) if self._whole else None

    def _speed(self, of: Mapping[str, float]) -> Speed:
        seconds = max(sum(of[name] for name in PHASES), 1e-9)
        working = max(seconds - of["saving"], 1e-9)
        at_peak, at_ceiling = (rate and rate * working for rate in (self._peak, self._ceiling))
        return Speed(
            tokens_per_second=of["computed"] / working,
            useful_share=of["real"] / max(of["computed"], 1),
            shares={name: of[name] / seconds for name in PHASES},
            mfu=at_peak and of["causal"] / at_peak,
            mfu_documents=at_peak and of["documents"] / at_peak,
            ceiling_share=at_ceiling and of["documents"] / at_ceiling,
            peak_memory=torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None,
        )

    def _flops(self, documents: Sequence[int]) -> float:
        """Operations of forward and backward passes over documents of these lengths."""
        products = self._products * sum(documents)
        return training_flops(self._shape, documents) - products * (1 - self._trained) / 3


def peak_flops(device: torch.device) -> float | None:
    """The dense bf16 peak of a known GPU in FLOP/s; None for others."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
