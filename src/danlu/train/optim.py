"""The update of all parameters: which optimizer moves which, with what decay, and its moments by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.train.low_bit import low_bit_adamw, read_moments, write_moments
from danlu.train.muon import Matrix, Muon
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


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
        self._by_muon = set(matrices) if settings.optimizer == "muon" else set[str]()
        rest = {name: parameter for name, parameter in masters.items() if name not in self._by_muon}
        faster = {name for name in rest if ".adapters." in name and name.endswith(".b")}
        decayed = [parameter for name, parameter in rest.items() if parameter.ndim >= 2 and name not in faster]
        spared = [parameter for parameter in rest.values() if parameter.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        if isinstance(settings.tune, LoRA):
            up = [rest[name] for name in rest if name in faster]
            groups.append({"params": up, "weight_decay": settings.weight_decay, "factor": settings.tune.b_rate})
        groups = [group for group in groups if group["params"]]
        self._low_bit = settings.optimizer_states != "float32"
        self._adamw: torch.optim.Optimizer | None = None
        self._muon: Muon | None = None
        if groups:
            self._adamw = low_bit_adamw(groups, settings) if self._low_bit else _adamw(groups, settings)
        if pairs := [(masters[name], matrices[name]) for name in masters if name in self._by_muon]:
            rate, decay = settings.learning_rate, settings.weight_decay
            self._muon = Muon(pairs, lr=rate, momentum=settings.momentum, weight_decay=decay)
        self._all = [one for one in (self._adamw, self._muon) if one is not None]

    def step(self, rate: float) -> None:
        """Applies the gradients at the learning rate `rate`."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            optimizer.step()
        self.updates += 1

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """{one of MOMENTS: {parameter: tensor}}, each of its parameter's shape; empty before the first step."""
        found: dict[str, dict[str, Tensor]] = {}
        for optimizer in self._all:
            for name, parameter in self._masters.items():
                state = optimizer.state.get(parameter, {})
                state = read_moments(state) if self._low_bit and optimizer is self._adamw else state
                for moment, value in state.items():
                    if moment != "step":
                        found.setdefault(moment, {})[name] = value
        return found

    def load(self, moments: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        """Takes moments as `moments` gives them, and how many updates made them. Others' moments are left aside."""
        self.updates = updates
        for name, parameter in self._masters.items():
            owner, names = self._owner(name)
            if owner is self._adamw and self._low_bit:
                given = {moment: moments[moment][name] for moment in names if name in moments.get(moment, {})}
                write_moments(owner, parameter, given, updates)
                continue
            state = owner.state[parameter]
            state.update({moment: moments[moment][name] for moment in names if name in moments.get(moment, {})})
            if owner is self._adamw:
                state["step"] = torch.tensor(float(updates), dtype=torch.float32, device=parameter.device)

    def _owner(self, name: str) -> tuple[torch.optim.Optimizer, tuple[str, ...]]:
        owner = self._muon if name in self._by_muon else self._adamw
        assert owner is not None
        return owner, MOMENTS[2:] if owner is self._muon else MOMENTS[:2]


def _adamw(groups: list[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
    rate, betas, eps = settings.learning_rate, settings.betas, settings.eps
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=eps, fused=True)


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
