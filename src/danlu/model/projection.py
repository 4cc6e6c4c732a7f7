"""A projection: one slot that holds a weight or a quantised weight, a bias, and adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from danlu.model import float8, gradient_sum
from danlu.model.linear_cpu import linear

if TYPE_CHECKING:
    from danlu.model.adapters import Adapters


class Quantised(nn.Module):
    """A weight [out, in] in fewer bits, which computes x W^T itself; the base of all kinds of it."""

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """[..., out] of x [..., in], in the dtype of x."""
        raise NotImplementedError

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that it stands for."""
        raise NotImplementedError

    @property
    def held(self) -> tuple[Tensor, ...]:
        """What `adapted_cuda.added_product` makes the weight of; nothing where it cannot."""
        return ()


class Projection(nn.Linear):
    """x W^T + b, where the rows of W hold several unfused weights, and what adapters add.

    `inside` names them with their rows. The rows of each are dealt into `groups` equal pieces; the first piece of
    every weight comes first, then the second piece of every one. Without adapters and quantisation it is a plain linear
    layer.
    """

    def __init__(self, width: int, inside: Mapping[str, int], groups: int = 1, bias: bool = False) -> None:
        super().__init__(width, sum(inside.values()), bias=bias)
        self.inside, self.groups = dict(inside), groups
        self.float8 = False
        """Whether the product with the weight is of values rounded to float8."""
        self.float8_scale: Tensor | None
        """Of a frozen weight in such products (`float8_frozen.weight_scale`)."""
        self.register_buffer("float8_scale", None, persistent=False)
        self.gradient_sum: Tensor | None
        """Float32 [out, in], to which products add the gradient of a weight in fewer bits; None: it is the weight's."""
        self.register_buffer("gradient_sum", None, persistent=False)
        self.adapters: Adapters | None
        self.quantised: Quantised | None
        self.register_module("adapters", None)
        self.register_module("quantised", None)

    def forward(self, x: Tensor, pick_BN: Tensor | None = None) -> Tensor:
        """[..., out]; `pick_BN` says which of the loaded adapters each row of the batch takes (`adapters.Several`)."""
        if self.adapters is None:
            return self.product(x, self.bias)
        return self.adapters(x, self, pick_BN)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + bias, without adapters."""
        if self.float8_scale is not None:
            from danlu.model import float8_frozen

            y = float8_frozen.linear(x, self.held, self.float8_scale, self.out_features)
            return y if bias is None else y + bias
        if self.quantised is not None:
            return self.quantised(x, bias)
        if self.float8:
            y = float8.linear(x, self.weight)
            return y if bias is None else y + bias
        if self.gradient_sum is not None and torch.is_grad_enabled():
            return gradient_sum.linear(x, self.weight, bias, self.gradient_sum)
        return linear(x, self.weight, bias)

    def whole_weight(self, dtype: torch.dtype) -> Tensor:
        """W [out, in], out of fewer bits where it is quantised."""
        return self.weight.to(dtype) if self.quantised is None else self.quantised.dequantised(dtype)

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The frozen weight, or what a quantised one is held in, as `adapted_cuda` takes it; nothing where it can't."""
        if self.quantised is not None:
            return self.quantised.held
        return () if self.weight.requires_grad else (self.weight,)

    def quantise(self, quantised: Quantised) -> None:
        """Takes a quantised weight in the place of the weight."""
        self.weight = None  # type: ignore[assignment]
        self.quantised = quantised

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        held = self.weight if self.quantised is None else next(self.quantised.buffers())
        return held.device

    def view(self, name: str) -> Callable[[Tensor], Tensor]:
        """From a tensor of W's rows [out, ...] to a view of those of the weight `name`: [rows, ...], or
        [groups, rows / groups, ...] where they do not lie together.
        """
        start = 0
        for other, rows in self.inside.items():
            if other == name:
                break
            start += rows // self.groups
        stop, groups = start + self.inside[name] // self.groups, self.groups
        if groups == 1:
            return lambda fused: fused[start:stop]
        return lambda fused: fused.unflatten(0, (groups, -1))[:, start:stop]

    def fuse(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The reverse: rows [out, ...] of W out of those [rows, ...] of every weight inside."""
        if len(self.inside) == 1:
            return next(iter(rows.values()))
        return torch.cat([rows[name].unflatten(0, (self.groups, -1)) for name in self.inside], dim=1).flatten(0, 1)
