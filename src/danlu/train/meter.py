"""How fast a run is, where its time goes, and when it will end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from danlu.ledger.metrics import Metric
from danlu.model.settings import ModelSettings, matmul_parameters, training_flops

PHASES = ("data", "compute", "optimizer", "saving")
RECENT = 0.1  # weight of the newest step in the rate that tells the time left

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
    "mfu_full": Metric("share", "mean over ranks", "the same with attention counted as if not causal"),
    "time_data": Metric("share", "this step, main rank", "time waiting for batches"),
    "time_compute": Metric("share", "this step, main rank", "forward and backward passes, with their communication"),
    "time_optimizer": Metric("share", "this step, main rank", "clipping and the update"),
    "time_saving": Metric("share", "this step, main rank", "checkpoints and held-out evaluation since the last step"),
    "peak_memory": Metric("bytes", "main rank", "most memory that tensors held on the GPU"),
    "seconds_left": Metric("s", "main rank", "time to the end of the run at the recent rate"),
}


class Meter:
    """Times the phases of each step and turns them into metrics."""

    def __init__(
        self, shape: ModelSettings, length: int, device: torch.device, world_size: int, trained: float = 1.0
    ) -> None:
        """`trained` is the share of the weights that have gradients: those of the others are not computed."""
        products = 6 * matmul_parameters(shape)
        attention = training_flops(shape, [length]) / length - products
        self._flops = products * (2 + trained) / 3 + attention
        self._flops_full = products * (2 + trained) / 3 + 2 * attention
        self._device, self._peak = device, peak_flops(device)
        self._world_size = world_size
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._seconds_per_example = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block's time to one of PHASES."""
        begin = time.perf_counter()
        yield
        if self._device.type == "cuda":  # this stream alone: a checkpoint may be on its way to the host in another
            torch.cuda.current_stream(self._device).synchronize()
        self._spent[name] += time.perf_counter() - begin

    def read(self, computed: int, real: int, examples: int, examples_left: int) -> dict[str, float]:
        """The metrics of a step that took all ranks `computed` tokens, of them `real` ones; starts the next step's."""
        seconds = max(sum(self._spent.values()), 1e-9)
        working = max(seconds - self._spent["saving"], 1e-9)
        rate = computed / working
        newest = seconds / max(examples, 1)
        old = self._seconds_per_example
        self._seconds_per_example = newest if old == 0.0 else old + RECENT * (newest - old)
        metrics = {
            "tokens_per_second": rate,
            "useful_share": real / max(computed, 1),
            "seconds_left": self._seconds_per_example * examples_left,
            **{f"time_{name}": spent / seconds for name, spent in self._spent.items()},
        }
        if self._peak is not None:
            metrics["mfu"] = rate * self._flops / (self._peak * self._world_size)
            metrics["mfu_full"] = rate * self._flops_full / (self._peak * self._world_size)
        if self._device.type == "cuda":
            metrics["peak_memory"] = torch.cuda.max_memory_allocated(self._device)
        self._spent = dict.fromkeys(PHASES, 0.0)
        return metrics


def peak_flops(device: torch.device) -> float | None:
    """The dense bf16 peak of a known GPU in FLOP/s; None for others."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
