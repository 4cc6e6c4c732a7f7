"""The update of all parameters: which optimizer moves which, with what decay, and its moments by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from danlu.ledger.errors import UserError
from danlu.train.eight_bit import SMALL, AdamW8bit
from danlu.train.muon import Matrix, Muon
from danlu.train.paged import PagedAdamW
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
LOW = (AdamW8bit, PagedAdamW)
"""Optimizers that read and take moments in a form of their own."""


Owner = torch.optim.AdamW | AdamW8bit | PagedAdamW | Muon


class Moment(Mapping[str, Tensor]):
    """A moment of all parameters that have it, by their names."""

    def __init__(self, name: str, masters: Mapping[str, Tensor], owners: Mapping[str, Owner]) -> None:
        self._name, self._masters, self._owners = name, masters, owners
        self._names = {one: None for one, parameter in masters.items() if name in _kept(owners[one], parameter)}

    def __getitem__(self, name: str) -> Tensor:
        owner, parameter = self._owners[name], self._masters[name]
        if isinstance(owner, LOW):
            return owner.moment(parameter, self._name)
        held: Tensor = owner.state[parameter][self._name]
        return held

    def __contains__(self, name: object) -> bool:  # without reading it
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _kept(owner: Owner, parameter: Tensor) -> Collection[str]:
    """The moments that there are."""
    return owner.kept(parameter) if isinstance(owner, LOW) else owner.state.get(parameter, {}).keys()


class Optimizer:
    """AdamW for all parameters, or Muon for the matrices of blocks and AdamW for the rest.

    `masters` are the float32 parameters that this process updates, by name (plain or sharded); there may be none.
    `matrices` are those of the blocks, by the parameter that holds them.
    Weight decay spares what has fewer than two dimensions: norms and biases. LoRA+ gives an adapter's B its own rate.
    """

    def __init__(
        self, settings: TrainSettings, masters: Mapping[str, Tensor], matrices: Mapping[str, Sequence[Matrix]]
    ) -> None:
        self._masters = dict(masters)
        self.updates = 0
        by_muon = set(matrices) if settings.optimizer == "muon" else set[str]()
        muons = {name: parameter for name, parameter in masters.items() if name in by_muon}
        others = {name: parameter for name, parameter in masters.items() if name not in by_muon}
        low = {name: parameter for name, parameter in others.items() if _in_low_memory(parameter, settings)}
        usual = {name: parameter for name, parameter in others.items() if name not in low}
        rate, decay = settings.learning_rate, settings.weight_decay
        given: dict[str, Any] = {"lr": rate, "betas": settings.betas, "eps": settings.eps}
        self._owners: dict[str, Owner] = {}
        if usual:
            self._owners |= dict.fromkeys(usual, torch.optim.AdamW(_groups(usual, settings), **given, fused=True))
        if low:
            kind = PagedAdamW if settings.optimizer_states == "paged" else AdamW8bit
            self._owners |= dict.fromkeys(low, kind(_groups(low, settings), **given))
        if muons:
            pairs = [(parameter, matrices[name]) for name, parameter in muons.items()]
            self._owners |= dict.fromkeys(muons, Muon(pairs, lr=rate, momentum=settings.momentum, weight_decay=decay))
        self._all = list(dict.fromkeys(self._owners.values()))

    def step(self, rate: float) -> None:
        """Applies the gradients at the learning rate `rate`."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            optimizer.step()
        self.updates += 1

    def moments(self) -> dict[str, Mapping[str, Tensor]]:
        """{one of MOMENTS: {parameter: tensor}}, each of its parameter's shape; empty before the first step.

        What is kept in another form is read when it is asked for, as all of it in float32 may not fit.
        """
        made = {moment: Moment(moment, self._masters, self._owners) for moment in MOMENTS}
        return {moment: held for moment, held in made.items() if held}

    def load(self, moments: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        """Takes moments as `moments` gives them, and how many updates made them. Others' moments are left aside."""
        self.updates = updates
        for name, parameter in self._masters.items():
            owner = self._owners[name]
            names = MOMENTS[2:] if isinstance(owner, Muon) else MOMENTS[:2]
            given = {moment: moments[moment][name] for moment in names if name in moments.get(moment, {})}
            if not given:  # it was saved before its first update
                continue
            if isinstance(owner, LOW):
                owner.put(parameter, given, updates)
                continue
            owner.state[parameter].update(given)
            if isinstance(owner, torch.optim.AdamW):
                step = torch.tensor(float(updates), dtype=torch.float32, device=parameter.device)
                owner.state[parameter]["step"] = step


def _in_low_memory(parameter: Tensor, settings: TrainSettings) -> bool:
    """Whether the parameter's moments are kept in another form than torch's. Raises UserError where that cannot be."""
    states = settings.optimizer_states
    if states == "float32" or (states == "8bit" and parameter.numel() < SMALL):
        return False
    if isinstance(parameter, DTensor):
        raise UserError(
            f"moments kept as {states} cannot be cut into shards",
            where="train.optimizer_states",
            do="set train.sharding=none or optimizer, train in one process, or set it to float32",
        )
    return True


def _groups(parameters: Mapping[str, Tensor], settings: TrainSettings) -> list[dict[str, Any]]:
    """What AdamW moves, by decay and rate; none without parameters."""
    faster = {name for name in parameters if ".adapters." in name and name.endswith(".b")}
    decayed = [parameter for name, parameter in parameters.items() if parameter.ndim >= 2 and name not in faster]
    spared = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    if isinstance(settings.tune, LoRA):
        up = [parameters[name] for name in parameters if name in faster]
        groups.append({"params": up, "weight_decay": settings.weight_decay, "factor": settings.tune.b_rate})
    return [group for group in groups if group["params"]]


@torch.no_grad()
def clip(
    gradients: list[Tensor], largest: float | None, scale: float, norm_of_all: Callable[[float], float] = float
) -> float:
    """Divides the gradients by `scale`, scales them so that their global norm is at most `largest`, and gives the norm
    before that. Sharded gradients count whole; where other processes keep others, `norm_of_all` joins their norms.
    """
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    total = norm_of_all(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)) / scale
    factor = 1.0 / scale
    if largest is not None and total > largest:
        factor *= largest / (total + 1e-6)
    if factor != 1.0 and gradients:
        torch._foreach_mul_(gradients, factor)
    return total
