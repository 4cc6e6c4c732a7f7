"""The number formats of a run: what is computed in, and the float32 weights that the optimizer moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "float8": torch.bfloat16}
"""Of everything but the blocks' products, which `float8` rounds further."""


class Masters:
    """Float32 weights with float32 gradients, whatever the module computes in.

    With `rounded_to` below float32 the module's parameters are rounded and each gets a float32 master: a
    micro-batch's gradient is added to the master's and freed as soon as it is made, and `publish` rounds the masters
    back into the module. Otherwise the parameters are their own masters. What needs no gradient has no master and
    stays as it is, in `frozen`.
    """

    def __init__(self, module: nn.Module, rounded_to: torch.dtype | None) -> None:
        self._rounded: list[tuple[Tensor, Tensor]] = []
        self.parameters: dict[str, Tensor] = {}
        self.frozen: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                self.frozen[name] = parameter
                continue
            if rounded_to is None or rounded_to.itemsize >= parameter.dtype.itemsize:
                self.parameters[name] = parameter
                continue
            master = parameter.detach().clone()
            parameter.data = parameter.data.to(rounded_to)
            parameter.register_post_accumulate_grad_hook(_moves_gradient_to(master))
            self.parameters[name] = master
            self._rounded.append((parameter, master))

    def gradients(self) -> list[Tensor]:
        """The gradients that exist."""
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    @torch.no_grad()
    def publish(self) -> None:
        """Rounds the masters into the module; after every change of a master."""
        if self._rounded:
            rounded, masters = zip(*self._rounded, strict=True)
            torch._foreach_copy_(list(rounded), list(masters))

    def clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None


def _moves_gradient_to(master: Tensor) -> Any:
    def move(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.to(master.dtype)
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return move


class LossScale:
    """Dynamic loss scale for fp16 (Micikevicius et al. 2018, arXiv 1710.03740); constant 1 for other formats.

    The loss is multiplied before the backward pass and the gradient divided after it. A gradient that is not finite
    halves the scale; `PATIENCE` good steps in a row double it.
    """

    START = 2.0**16
    LARGEST = 2.0**24
    PATIENCE = 2000

    def __init__(self, dtype: torch.dtype) -> None:
        self.dynamic = dtype == torch.float16
        self.value = self.START if self.dynamic else 1.0
        self._good = 0

    def update(self, finite: bool) -> None:
        """Adapts the scale to the outcome of a step."""
        if not self.dynamic:
            return
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.value /= 2.0
        elif self._good == self.PATIENCE:
            self.value, self._good = min(self.value * 2.0, self.LARGEST), 0

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "good": self._good}

    def load(self, state: dict[str, Any]) -> None:
        """Takes the saved scale; ignored where the format now needs none."""
        if self.dynamic:
            self.value, self._good = state["value"], state["good"]
