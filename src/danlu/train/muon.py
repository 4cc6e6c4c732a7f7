"""Muon: momentum whose matrices are made nearly orthogonal before they are applied.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the update is scaled to AdamW's size as in Liu et al. 2025
(arXiv 2502.16982), so that one learning rate and one weight decay serve both optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, overload

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPSILON = 1e-7
TOGETHER = 64_000_000  # elements whose updates are held at once
ADAMW_SIZE = 0.2  # root mean square of a usual AdamW update


class Matrix(Protocol):
    """One matrix inside a parameter, or the parameter itself."""

    def read(self, tensor: Tensor) -> Tensor:
        """The matrix [rows, columns] out of a tensor of the parameter's shape."""
        ...

    def write(self, tensor: Tensor, value: Tensor) -> None:
        """Puts the matrix back in its place."""
        ...


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """U V^T for the singular value decomposition U S V^T of each matrix, roughly (singular values about 0.7 to 1.2).

    Newton-Schulz iteration of fifth order in bfloat16, as published. Gives bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrices_NRC.bfloat16()
    tall = x.size(1) > x.size(2)
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
            for parameters in _together(group["params"]):
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, float]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = [_gathered(update) for update in nesterov]
        _orthogonalise_inside(list(zip(updates, (self._matrices[p] for p in parameters), strict=True)))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        shares = [_sharded(update, parameter) for update, parameter in zip(updates, parameters, strict=True)]
        torch._foreach_add_(parameters, shares, alpha=-group["lr"])


def _together(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters with gradients, as many at a time as may be gathered at once."""
    held: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if held and sum(map(Tensor.numel, held)) + parameter.numel() > TOGETHER:
            yield held
            held = []
        held.append(parameter)
    if held:
        yield held


def _orthogonalise_inside(updates: Iterable[tuple[Tensor, Sequence[Matrix]]]) -> None:
    """Makes the matrices in each tensor orthogonal, and as large as AdamW's updates; those of one shape in one go."""
    by_shape: dict[torch.Size, list[tuple[Tensor, Matrix, Tensor]]] = {}
    for tensor, matrices in updates:
        for matrix in matrices:
            value_RC = matrix.read(tensor)
            by_shape.setdefault(value_RC.shape, []).append((tensor, matrix, value_RC))
    for shape, found in by_shape.items():
        stack_NRC = orthogonalise(torch.stack([value_RC for _, _, value_RC in found]))
        stack_NRC = stack_NRC.to(found[0][0].dtype) * (ADAMW_SIZE * max(shape) ** 0.5)
        for (tensor, matrix, _), value_RC in zip(found, stack_NRC.unbind(), strict=True):
            matrix.write(tensor, value_RC)


def _gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharded(full: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor):
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
    return full
