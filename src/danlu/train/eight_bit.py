"""AdamW whose two moments are kept in 8 bits a value, each parameter's update one kernel on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.train.moment_codes import (
    BLOCK,
    FORMS,
    Codes,
    blocks_of,
    read_signed,
    read_unsigned,
    write_signed,
    write_unsigned,
)

SMALL = 4_096
"""Of a parameter with fewer numbers 8-bit moments save nothing; it is left to torch's AdamW."""
ALONE = 1 << 23
"""From so many numbers on an update takes a GPU longer than the call that asks for it."""
TOGETHER = 1 << 24
"""Numbers that are joined at most: 10 bytes each while they are updated."""


def update(
    weights: Tensor,
    gradients: Tensor,
    first: Codes,
    second: Codes,
    rate: Tensor,
    eps: Tensor,
    decay: Tensor,
    betas: tuple[float, float],
) -> None:
    """One step of AdamW on float32 weights [N, 256] and their moments, in place.

    `rate` and `eps` have the correction of both moments' bias in them, `decay` the learning rate. They are tensors
    without dimensions on a CPU: no new kernel is made as they change.
    """
    one, two = betas
    mean = one * read_signed(first) + (1 - one) * gradients
    square = two * read_unsigned(second) + (1 - two) * gradients * gradients
    weights.copy_(weights - (decay * weights + rate * (mean / (square.sqrt() + eps))))
    write_signed(first, mean)
    write_unsigned(second, square)


@cache
def _compiled() -> Callable[..., None]:
    return torch.compile(update, fullgraph=True)


def compiled_update(weights: Tensor, gradients: Tensor, first: Codes, second: Codes, *fixed: Any) -> None:
    """`update` as one kernel, the same for any number of blocks from 2 on and for every step."""
    for tensor in (weights, gradients, *first, *second):
        torch._dynamo.mark_dynamic(tensor, 0)
    _compiled()(weights, gradients, first, second, *fixed)


class Piece(NamedTuple):
    """Numbers of one parameter: weights and gradients [n] and the blocks of moments that are theirs."""

    weights: Tensor
    gradients: Tensor
    first: Codes
    second: Codes


class AdamW8bit(torch.optim.Optimizer):
    """AdamW over contiguous float32 parameters: compiled on a GPU, on a CPU plainly, without a compiler.

    Full blocks of a large parameter are updated where they lie; all else is joined, as a call takes longer than it.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[int, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self._state(parameter)
                    state["updates"] += 1
                    alike.setdefault(state["updates"], []).append(parameter)
            for updates, parameters in alike.items():
                fixed = (*_scalars(group, updates), group["betas"])
                pieces = [piece for parameter in parameters for piece in self._pieces(parameter)]
                # The largest first: the compiler lays its kernel out for the first shape that it meets.
                for together in _together(sorted(pieces, key=lambda piece: piece.weights.numel(), reverse=True)):
                    _move(together, fixed)

    def kept(self, parameter: Tensor) -> list[str]:
        """Which moments there are, by torch's names; none before the parameter's first step."""
        state = self.state.get(parameter, {})
        return [name for name in FORMS if name in state]

    def moment(self, parameter: Tensor, name: str) -> Tensor:
        """One of them in float32 and the parameter's shape."""
        values = FORMS[name].read(self.state[parameter][name])
        return values.view(-1)[: parameter.numel()].view(parameter.shape)

    def put(self, parameter: Tensor, moments: Mapping[str, Tensor], updates: int) -> None:
        """The reverse, after so many updates: to the bit what `moment` read, and 0 where nothing is given."""
        state = self._state(parameter)
        state["updates"] = updates
        for name, moment in moments.items():
            FORMS[name].write(state[name], blocks_of(moment.to(parameter.device).reshape(-1)))

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state |= {name: Codes.zeros(parameter.numel(), parameter.device) for name in FORMS}
            state["updates"] = 0
        return state

    def _pieces(self, parameter: Tensor) -> Iterator[Piece]:
        assert parameter.grad is not None
        weights, gradients = parameter.detach().view(-1), parameter.grad.reshape(-1)
        first, second = (self.state[parameter][name] for name in FORMS)
        full = len(weights) // BLOCK if len(weights) >= ALONE else 0
        for start, end in ((0, full), (full, len(first.scales))):
            if start < end:
                numbers = slice(start * BLOCK, end * BLOCK)
                yield Piece(weights[numbers], gradients[numbers], first.rows(start, end), second.rows(start, end))


def _together(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Those of ALONE numbers one by one, others as many at a time as make no more than TOGETHER."""
    held: list[Piece] = []
    numbers = 0
    for piece in pieces:
        size = piece.weights.numel()
        if size >= ALONE:
            yield [piece]
            continue
        if held and numbers + size > TOGETHER:
            yield held
            held, numbers = [], 0
        held.append(piece)
        numbers += size
    if held:
        yield held


def _move(pieces: list[Piece], fixed: tuple[Any, ...]) -> None:
    in_blocks = [[blocks_of(one.weights), blocks_of(one.gradients), *one.first, *one.second] for one in pieces]
    in_place = len(pieces) == 1 and len(pieces[0].weights) % BLOCK == 0
    held = in_blocks[0] if in_place else [torch.cat(tensors) for tensors in zip(*in_blocks, strict=True)]
    weights, gradients, *moments = held
    move = compiled_update if weights.is_cuda and len(weights) > 1 else update
    move(weights, gradients, Codes(*moments[:2]), Codes(*moments[2:]), *fixed)
    if in_place:
        return
    rows = [len(blocks) for blocks, *_ in in_blocks]
    moved = zip(weights.split(rows), pieces, strict=True)
    torch._foreach_copy_(
        [one.weights for one in pieces], [blocks.view(-1)[: len(one.weights)] for blocks, one in moved]
    )
    for place, moment in enumerate(moments, start=2):
        torch._foreach_copy_([tensors[place] for tensors in in_blocks], moment.split(rows))


def _scalars(group: Mapping[str, Any], updates: int) -> list[Tensor]:
    """`rate`, `eps` and `decay` of `update`, at the step of that number."""
    one, two = (1 - beta**updates for beta in group["betas"])
    root = math.sqrt(two)
    numbers = group["lr"] * root / one, group["eps"] * root, group["lr"] * group["weight_decay"]
    return [torch.tensor(number, dtype=torch.float32) for number in numbers]
