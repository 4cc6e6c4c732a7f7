"""Muon: momentum whose matrices are made nearly orthogonal before they are applied.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the update is scaled to AdamW's size as in Liu et al. 2025
(arXiv 2502.16982), so that one learning rate and one weight decay serve both optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, overload

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPSILON = 1e-7
ADAMW_SIZE = 0.2  # root mean square of a usual AdamW update


class Matrix(Protocol):
    """One matrix inside a parameter, or the parameter itself."""

    def read(self, tensor: Tensor) -> Tensor:
        """The matrix [rows, columns] out of a tensor of the parameter's shape."""
        ...

    def write(self, tensor: Tensor, value: Tensor) -> None:
        """Puts the matrix back in its place."""
        ...


def orthogonalise(matrix_RC: Tensor) -> Tensor:
    """U V^T for the singular value decomposition U S V^T of a matrix, roughly (singular values in about 0.7 to 1.2).

    Newton-Schulz iteration of fifth order in bfloat16, as published. Gives bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrix_RC.bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon over parameters that hold one or several matrices.

    Sharded parameters (DTensor) are gathered for the iteration, so that any number of processes gives the same update.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[Tensor, Sequence[Matrix]]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ) -> None:
        self._matrices = dict(parameters)
        super().__init__(list(self._matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Applies the gradients once."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, float]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        full = _gathered(gradient.lerp(momentum, group["momentum"]))  # Nesterov
        for matrix in self._matrices[parameter]:
            matrix_RC = matrix.read(full)
            size = ADAMW_SIZE * max(matrix_RC.shape) ** 0.5
            matrix.write(full, orthogonalise(matrix_RC).to(full.dtype) * size)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(_sharded(full, parameter), alpha=-group["lr"])


def _gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharded(full: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor):
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
    return full
