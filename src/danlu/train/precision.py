"""The number formats of a run: what is computed in, and the float32 weights that the optimizer moves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from danlu.ledger.errors import UserError
from danlu.model.head import Head
from danlu.model.projection import Projection
from danlu.train.keepers import Keepers
from danlu.train.parallel import World, first_of, own_part, whole
from danlu.train.rounding import round_into, rounded
from danlu.train.settings import Sharding

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "float8": torch.bfloat16}
"""Of everything but the blocks' products, which `float8` rounds further."""

NATIVE = {"bf16": (8, 0), "float8": (8, 9)}
"""The least compute capability of a GPU with products in a format: Ampere and later; Ada, Hopper and later."""


def require_format(precision: str, device: torch.device) -> None:
    """Raises UserError for a format on a GPU that only imitates it, many times slower, or has not got it."""
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability >= NATIVE.get(precision, (0, 0)):
        return
    fp16 = "set fp16: the loss is scaled, so that small gradients survive; or float32"
    raise UserError(
        f"{torch.cuda.get_device_name(device)} has no products in {precision}",
        where="train.precision",
        do=fp16 if capability < NATIVE["bf16"] else "set bf16",
    )


class Masters:
    """Float32 weights with float32 gradients, whatever the module computes in.

    With `rounded_to` below float32 the module's parameters are rounded and each gets a float32 master: a
    micro-batch's gradient is added to the master's by the product that makes it (`gradient_sum`), or as soon as it is
    made, and freed; `publish` rounds the masters back into the module. Shards stay float32 and hold rounded values, as
    they are gathered in `rounded_to` and sum their gradients themselves. Otherwise the parameters are their own
    masters. What needs no gradient has no master and stays as it is, in `frozen`. `parameters` are the masters that
    this process updates: on several processes with `level` "optimizer" a part of them, with `keepers` to say which.
    """

    def __init__(
        self, module: nn.Module, rounded_to: torch.dtype | None, world: World | None = None, level: Sharding = "none"
    ) -> None:
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self._computed = trained
        self._holders: dict[str, Tensor] = dict(trained)  # of the gradients
        self._rounds = any(rounded_to and rounded_to.itemsize < one.dtype.itemsize for one in trained.values())
        self._dtype, self._shards = rounded_to, any(isinstance(one, DTensor) for one in trained.values())
        self._sums: dict[str, Tensor] = {}  # gradients that their products add to
        self._heads = [slot for slot in module.modules() if isinstance(slot, Head)]
        self.frozen = {name: one for name, one in module.named_parameters() if name not in trained}
        self.keepers: Keepers | None = None
        if world is not None and world.size > 1 and level in ("none", "optimizer"):
            sizes = {name: one.numel() for name, one in trained.items()} if level == "optimizer" else {}
            self.keepers = Keepers.shared_out(sizes, world)
        adding = {id(slot.weight): slot for slot in module.modules() if _adds_gradients(slot)}
        if self._rounds and self._shards:
            self._holders = {name: parameter.detach().clone() for name, parameter in trained.items()}
        for name, parameter in trained.items() if self._rounds and not self._shards else ():
            # Of a master that is kept elsewhere there is only the shape, for the gradient.
            kept = self._keeps(name)
            master = parameter.detach().clone() if kept else parameter.detach().new_empty(1).expand(parameter.shape)
            assert rounded_to is not None
            parameter.data = rounded(parameter.data, rounded_to, name, 0)
            self._holders[name] = master
            parameter.register_post_accumulate_grad_hook(_moves_gradient_to(master))
            if slot := adding.get(id(parameter)):
                slot.gradient_sum = torch.zeros_like(parameter, dtype=master.dtype)
                self._sums[name] = slot.gradient_sum
        self.parameters = {name: holder for name, holder in self._holders.items() if self._keeps(name)}
        self.clear_gradients()
        if self._shards:
            self.publish(0)

    @property
    def trained(self) -> Collection[str]:
        """The names of all parameters that are trained, whichever process updates them."""
        return self._computed.keys()

    @property
    def apart(self) -> bool:
        """Whether `parameters` of other processes are others."""
        return self.keepers is not None and bool(self.keepers.of)

    def sum_gradients(self) -> None:
        """Sums the gradients over the processes, where that was not done on the way; all must call it together.

        Raises RuntimeError where a loss that the head made was not gone back through: its gradient is in the sum.
        """
        if any(head.owed for head in self._heads):
            raise RuntimeError("an objective asked the network for `nll` and did not differentiate it: ask for `logp`")
        if self.keepers is not None:
            self.keepers.sum_gradients(self._holders)
        for name, parameter in self._computed.items() if self._shards else ():
            self._holders[name].grad = parameter.grad

    def gradients(self) -> list[Tensor]:
        """The gradients that exist; those that products sum up exist always."""
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    @property
    def rounds(self) -> bool:
        """Whether the module computes with masters that `publish` rounds."""
        return self._rounds

    @torch.no_grad()
    def publish(self, updates: int, exchanging: AbstractContextManager[None] | None = None) -> None:
        """Rounds the masters into the module (`rounding.py`), everywhere; all must call it together after every change
        of a master.

        `updates` is how many the masters have had; `exchanging` is around what processes exchange.
        """
        if self._rounds and self._shards:
            assert self._dtype is not None
            for name, master in self.parameters.items():
                made = rounded(own_part(master), self._dtype, name, updates, first_of(master))
                own_part(self._computed[name]).copy_(made)
        elif self._rounds:
            round_into(self._computed, self.parameters, updates)
        if self.keepers is not None:
            with exchanging or nullcontext():
                self.keepers.give(self._computed)

    def norm(self, own: float) -> float:
        """The norm of all gradients, from that of those that this process keeps."""
        return own if self.keepers is None else self.keepers.norm(own)

    def clear_gradients(self) -> None:
        for head in self._heads:
            head.owed = 0
        for name, holder in self._holders.items():
            self._computed[name].grad, holder.grad = None, self._sums.get(name)
        if self._sums:
            torch._foreach_zero_(list(self._sums.values()))

    def whole(self, held: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of parameters' shapes, each as this process keeps it, unsharded and of all processes, which must ask
        together.
        """
        if self.keepers is not None:
            return self.keepers.whole(held, self._holders)
        return ((name, whole(tensor)) for name, tensor in held.items())

    def _keeps(self, name: str) -> bool:
        return self.keepers is None or self.keepers.keeps(name)


def _adds_gradients(module: nn.Module) -> TypeGuard[Projection | Head]:
    """Whether its products can add to a sum by themselves."""
    if isinstance(module, Projection):
        return module.quantised is None and not module.float8
    return isinstance(module, Head) and module.quantised is None


def _moves_gradient_to(master: Tensor) -> Any:
    def move(parameter: Tensor) -> None:
        if parameter.grad is None:  # all of it was added by products
            return
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
