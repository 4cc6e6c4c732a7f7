"""AdamW whose float32 moments move to the host where a GPU runs short: bitsandbytes' (arXiv 2305.14314)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.ledger.errors import UserError

STATES = {"exp_avg": "state1", "exp_avg_sq": "state2"}
"""AdamW's moments and how bitsandbytes names them."""


class PagedAdamW:
    """Over float32 parameters. Raises UserError where bitsandbytes is not installed."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        try:
            import bitsandbytes
        except ImportError:
            raise UserError(
                "optimizer_states: paged needs bitsandbytes",
                where="train.optimizer_states",
                do="pip install 'danlu[bitsandbytes]', or set it to 8bit or float32",
            ) from None
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        self._made: Any = bitsandbytes.optim.PagedAdamW32bit(list(groups), lr=lr, betas=betas, eps=eps)
        self.param_groups: list[dict[str, Any]] = self._made.param_groups

    def step(self) -> None:
        self._made.step()

    def kept(self, parameter: Tensor) -> list[str]:
        """Which moments there are, by torch's names; none before the parameter's first step."""
        state = self._made.state.get(parameter, {})
        return [name for name, theirs in STATES.items() if theirs in state]

    def moment(self, parameter: Tensor, name: str) -> Tensor:
        """A copy of one of them."""
        held: Tensor = self._made.state[parameter][STATES[name]]
        return held.clone()

    @torch.no_grad()
    def put(self, parameter: Tensor, moments: Mapping[str, Tensor], updates: int) -> None:
        """The reverse, after so many updates."""
        places = (
            (group, number, index)
            for number, group in enumerate(self.param_groups)
            for index, held in enumerate(group["params"])
            if held is parameter
        )
        group, *numbers = next(places)
        self._made.init_state(group, parameter, *numbers)
        state = self._made.state[parameter]
        state["step"] = updates
        for name, moment in moments.items():
            state[STATES[name]].copy_(moment)
