"""Copies from a GPU to the host for which nothing else on the GPU has to wait."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

STAGED = 64 * 2**20  # bytes of each of two buffers

_Step = tuple[Tensor, Tensor, "torch.cuda.Event | None"]


class Staging:
    """Two buffers in memory that a GPU writes to by itself, one filled while the other is emptied.

    A copy straight into other memory is made by the driver piece by piece, and kernels of the next step that are to be
    started meanwhile wait for it.
    """

    def __init__(self, device: torch.device, after: torch.cuda.Event | None = None) -> None:
        """With an event, copies are made beside all else on the device, once that event is over."""
        self._on_gpu = device.type == "cuda"
        self._buffers = [torch.empty(STAGED, dtype=torch.uint8, pin_memory=self._on_gpu) for _ in range(2)]
        self._stream = None if after is None else torch.cuda.Stream(device)
        if self._stream is not None and after is not None:
            self._stream.wait_event(after)

    def to_host(self, tensor: Tensor) -> Tensor:
        """The tensor on the CPU; it is there when this returns."""
        host, begun = torch.empty(tensor.shape, dtype=tensor.dtype), list[_Step]()
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            source, target = (part.reshape(-1).view(torch.uint8).split(STAGED) for part in (tensor.contiguous(), host))
            for number, (piece, place) in enumerate(zip(source, target, strict=True)):
                begun.append(self._begin(piece, place, number % 2))
                if number:
                    _end(begun.pop(0))
        for step in begun:
            _end(step)
        return host

    def _begin(self, piece: Tensor, place: Tensor, number: int) -> _Step:
        buffer = self._buffers[number][: len(piece)]
        buffer.copy_(piece, non_blocking=True)
        done = torch.cuda.Event() if self._on_gpu else None
        if done is not None:
            done.record()
        return buffer, place, done


def _end(step: _Step) -> None:
    buffer, place, done = step
    if done is not None:
        done.synchronize()
    place.copy_(buffer)
