"""Which process keeps the float32 weights and moments of a parameter, and what passes between it and the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
import torch.distributed as dist
from torch import Tensor

from danlu.train.parallel import World

BUCKET = 32 * 2**20
"""Bytes that are exchanged at once for each process: a ring cuts a bucket into as many pieces as there are."""


@dataclass(frozen=True)
class Keepers:
    """Every process has all weights and makes all gradients; its keeper updates a parameter for all (ZeRO-1,
    Rajbhandari et al. 2020, arXiv 1910.02054, parameter by parameter). Without keepers each updates all of them.
    """

    world: World
    of: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def shared_out(cls, sizes: Mapping[str, int], world: World) -> Keepers:
        """The largest first, each to the process that has least: alike on all of them."""
        loads, of = [0] * world.size, dict.fromkeys(sizes, 0)
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            of[name] = loads.index(min(loads))
            loads[of[name]] += sizes[name]
        return cls(world, of)

    def keeps(self, name: str) -> bool:
        """Whether this process updates the parameter."""
        return self.of.get(name, self.world.rank) == self.world.rank

    def sum_gradients(self, holders: Mapping[str, Tensor]) -> None:
        """Sums each `grad` over the processes; where a parameter has a keeper, the others give theirs up."""
        made = {name: holder.grad for name, holder in holders.items() if holder.grad is not None}
        for together in self._rounds(made) if self.world.size > 1 else ():
            flying = []
            for keeper, names in together:
                flat = _flat([made[name] for name in names])
                sent = (
                    dist.all_reduce(flat, async_op=True) if keeper is None else dist.reduce(flat, keeper, async_op=True)
                )
                flying.append((names, flat, sent))
            for names, flat, work in flying:
                work.wait()
                for name, piece in _pieces(flat, names, holders):
                    gradient = made.pop(name)
                    if not self.keeps(name):
                        holders[name].grad = None
                    elif piece.data_ptr() != gradient.data_ptr():
                        gradient.copy_(piece)

    def give(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes each keeper's tensor over those of the others."""
        for together in self._rounds(tensors) if self.of else ():
            flying = []
            for keeper, names in together:
                flat = _flat([tensors[name] for name in names])
                flying.append((names, flat, dist.broadcast(flat, keeper or 0, async_op=True)))
            for names, flat, work in flying:
                work.wait()
                for name, piece in _pieces(flat, names, tensors):
                    if not self.keeps(name) and piece.data_ptr() != tensors[name].data_ptr():
                        tensors[name].copy_(piece)

    def norm(self, own: float) -> float:
        """The norm of what all keep together, from that of what this process keeps."""
        return math.sqrt(self.world.total([own**2])[0]) if self.of else own

    def whole(self, held: Mapping[str, Tensor], likes: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """`held` of all processes, which must ask together, each tensor once. One that is kept elsewhere comes
        with the shape and dtype of its namesake in `likes`.
        """
        if not self.of:
            yield from held.items()
            return
        there = self.world.total([float(name in held) for name in likes])
        for (name, like), found in zip(likes.items(), there, strict=True):
            if found:
                tensor = held[name].contiguous() if name in held else torch.empty_like(like, memory_format=_DENSE)
                dist.broadcast(tensor, self.of[name])
                yield name, tensor

    def _rounds(self, tensors: Mapping[str, Tensor]) -> Iterator[list[tuple[int | None, Sequence[str]]]]:
        """What is exchanged at once: a bucket of each keeper, or one that is as large as those together."""
        most = BUCKET if self.of else BUCKET * self.world.size
        by: dict[int | None, list[str]] = {}
        for name in tensors:
            by.setdefault(self.of.get(name), []).append(name)
        filled = [[(keeper, bucket) for bucket in _buckets(names, tensors, most)] for keeper, names in by.items()]
        for together in zip_longest(*filled):
            yield [one for one in together if one is not None]


_DENSE = torch.contiguous_format


def _buckets(names: Sequence[str], tensors: Mapping[str, Tensor], most: int) -> Iterator[list[str]]:
    held, size = list[str](), 0
    for name in names:
        if held and size + tensors[name].nbytes > most:
            yield held
            held, size = [], 0
        held.append(name)
        size += tensors[name].nbytes
    if held:
        yield held


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """What is exchanged for these: one alone is exchanged where it lies."""
    return tensors[0].reshape(-1) if len(tensors) == 1 else torch.cat([tensor.reshape(-1) for tensor in tensors])


def _pieces(flat: Tensor, names: Sequence[str], likes: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    parts = flat.split([likes[name].numel() for name in names])
    return ((name, part.view(likes[name].shape)) for name, part in zip(names, parts, strict=True))
