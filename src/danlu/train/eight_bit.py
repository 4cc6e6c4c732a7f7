"""AdamW whose two moments are kept in 8 bits a value, each parameter's update one kernel on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

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


class AdamW8bit(torch.optim.Optimizer):
    """AdamW over contiguous float32 parameters: on a GPU one kernel for each, on a CPU plainly, without a compiler.

    A last block that is not full goes plainly too.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            # The largest first: the compiler lays its kernel out for the first shape that it meets.
            for parameter in sorted(moved, key=torch.numel, reverse=True):
                self._move(parameter, group)

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """By torch's names, in float32 and the parameter's shape; empty before its first step."""
        state, count = self.state.get(parameter, {}), parameter.numel()
        read = {name: form.read(state[name]) for name, form in FORMS.items() if name in state}
        return {name: values.view(-1)[:count].view(parameter.shape) for name, values in read.items()}

    def put(self, parameter: Tensor, moments: Mapping[str, Tensor], updates: int) -> None:
        """The reverse, after so many updates: to the bit what `moments` read, and 0 where nothing is given."""
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

    def _move(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        assert parameter.grad is not None
        state = self._state(parameter)
        state["updates"] += 1
        fixed = (*_scalars(group, state["updates"]), group["betas"])
        weights, gradients = parameter.detach().view(-1), parameter.grad.reshape(-1)
        full, first, second = parameter.numel() // BLOCK, *(state[name] for name in FORMS)
        end = full * BLOCK
        move = compiled_update if parameter.is_cuda else update
        move(blocks_of(weights[:end]), blocks_of(gradients[:end]), first.rows(0, full), second.rows(0, full), *fixed)
        if end < parameter.numel():
            last = blocks_of(weights[end:])
            update(last, blocks_of(gradients[end:]), first.rows(full, full + 1), second.rows(full, full + 1), *fixed)
            weights[end:] = last.view(-1)[: parameter.numel() - end]


def _scalars(group: Mapping[str, Any], updates: int) -> list[Tensor]:
    """`rate`, `eps` and `decay` of `update`, at the step of that number."""
    one, two = (1 - beta**updates for beta in group["betas"])
    root = math.sqrt(two)
    numbers = group["lr"] * root / one, group["eps"] * root, group["lr"] * group["weight_decay"]
    return [torch.tensor(number, dtype=torch.float32) for number in numbers]
