"""From a folder's files into a decoder: a file at a time, several tensors at once, straight to its device and dtype."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.families.config import Stated
from danlu.model.packed import packed_views
from danlu.model.parts import Part
from danlu.model.settings import ModelSettings, parameters
from danlu.model.stored import Stored, opened

THREADS = 8  # on a GPU: one alone copies pages of a file slower than the bus takes them
_STAGE = 1 << 24
_SPARE = 1.02


def pour(decoder: Decoder, stored: Stored, stated: Stated, parts: Iterable[Part] | None = None) -> None:
    """Fills the decoder, or some `parts` of it; the names and shapes of `stored` are known to fit.

    On the host there is never more than the pages of one file, and on a GPU's way a pinned buffer a thread.
    """
    inside: dict[str, list[tuple[Part, str | None]]] = defaultdict(list)
    device = torch.device("cpu")
    for part in decoder.parts() if parts is None else parts:
        device = part.parameter.device
        name, slot = stated.family.holder(part.name)
        inside[name].append((part, slot))
    views = packed_views(decoder.settings, stated.family.packed.grouped) if stated.family.packed else {}
    lanes = threading.local()

    def fill(name: str, tensors: Mapping[str, Tensor]) -> None:
        value = tensors[name]
        if device.type == "cuda":
            if not hasattr(lanes, "own"):
                lanes.own = _Lane(device)
            value = lanes.own.send(value)
        for part, slot in inside[name]:
            own = value if slot is None else views[slot](value)
            if stated.norm_head and part.name == "head.weight":
                own = F.normalize(own.float(), dim=1)
            part.write(part.parameter.detach(), own)

    def read(path: Path) -> None:  # a function, so that nothing of a file is held when the next is opened
        with opened(path) as tensors:
            wanted = [name for name in stored.names(path) if name in inside]
            list(threads.map(lambda name: fill(name, tensors), wanted))

    with ThreadPoolExecutor(THREADS if device.type == "cuda" else 1) as threads:
        for path in stored.paths:
            read(path)


class _Lane:
    """A thread's way to a GPU: two pinned buffers, one of which is filled while the other is sent."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stages = [torch.empty(_STAGE, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._sent = [torch.cuda.Event() for _ in range(2)]

    def send(self, value: Tensor) -> Tensor:
        with torch.cuda.device(self._device):
            there = torch.empty(value.shape, dtype=value.dtype, device=self._device)
            source, target = (x.reshape(-1).view(torch.uint8) for x in (value, there))
            pages = source.numpy()  # numpy copies in this thread alone, torch would begin a team of its own in each
            for number, start in enumerate(range(0, len(pages), _STAGE)):
                piece = pages[start : start + _STAGE]
                stage, sent = self._stages[number % 2][: len(piece)], self._sent[number % 2]
                sent.synchronize()
                stage.numpy()[:] = piece
                target[start : start + _STAGE].copy_(stage, non_blocking=True)
                sent.record()
            return there


def require_memory(
    settings: ModelSettings, dtype: torch.dtype, device: torch.device, folder: Path, saved: float = 0.0
) -> None:
    """Raises UserError where the weights do not fit into the free memory of the device; `saved` are bytes that
    quantisation spares.
    """
    needed, free = int((parameters(settings) * dtype.itemsize - saved) * _SPARE), free_bytes(device)
    if needed > free:
        name = str(dtype).removeprefix("torch.")
        raise UserError(
            f"the weights take {needed / 1e9:.1f} GB in {name} and {free / 1e9:.1f} GB are free on {device}",
            where=str(folder),
            do="end what else uses this memory, choose another device, or load it in bf16, int8 or int4",
        )


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device: of a container, where it has a limit, its own."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    free = 1 << 62
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = "".join(_lines("/sys/fs/cgroup/memory.max")).strip()
    if limit.isdigit():
        used = dict(line.split() for line in _lines("/sys/fs/cgroup/memory.stat"))
        free = min(free, int(limit) - sum(int(used.get(kind, 0)) for kind in ("anon", "kernel", "shmem")))
    return free


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []
