"""AdamW whose moments are in 8 bits, or in memory that moves between GPU and host: bitsandbytes'.

Dettmers et al. 2021 (arXiv 2110.02861) and 2023 (arXiv 2305.14314).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from danlu.ledger.errors import UserError
from danlu.train.settings import TrainSettings

BLOCK = 256
STATES = {"exp_avg": "1", "exp_avg_sq": "2"}
"""AdamW's moments and how bitsandbytes numbers them."""


def low_bit_adamw(groups: Sequence[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over the groups, its moments kept as `settings.optimizer_states` say.

    Raises UserError where bitsandbytes is not installed and for sharded parameters.
    """
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            f"optimizer_states: {settings.optimizer_states} needs bitsandbytes",
            where="train.optimizer_states",
            do="pip install 'danlu[bitsandbytes]', or set it to float32",
        ) from None
    if any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"]):
        raise UserError(
            f"moments kept as {settings.optimizer_states} cannot be cut into shards",
            where="train.optimizer_states",
            do="set train.sharding=none or optimizer, train in one process, or set it to float32",
        )
    kind = {"8bit": bitsandbytes.optim.AdamW8bit, "paged": bitsandbytes.optim.PagedAdamW32bit}
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    made: torch.optim.Optimizer = kind[settings.optimizer_states](
        list(groups), lr=settings.learning_rate, betas=settings.betas, eps=settings.eps
    )
    return made


def read_moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A parameter's moments in float32, in its shape; empty before its first step."""
    return {name: _read(state, number) for name, number in STATES.items() if f"state{number}" in state}


def write_moments(optimizer: Any, parameter: Tensor, moments: Mapping[str, Tensor], updates: int) -> None:
    """The reverse: puts float32 moments, and how many updates made them, into the optimizer's own form."""
    place = next(
        (group, number, index)
        for number, group in enumerate(optimizer.param_groups)
        for index, held in enumerate(group["params"])
        if held is parameter
    )
    group, *numbers = place
    optimizer.init_state(group, parameter, *numbers)
    state = optimizer.state[parameter]
    state["step"] = updates
    for name, number in STATES.items():
        if name in moments:
            _write(state, number, moments[name])


def _read(state: Mapping[str, Any], number: str) -> Tensor:
    held: Tensor = state[f"state{number}"]
    if held.dtype != torch.uint8:
        return held.clone()
    values = state[f"qmap{number}"][held.view(-1).int()]
    scales = state[f"absmax{number}"].repeat_interleave(BLOCK)[: values.numel()]
    return (values * scales).view(held.shape)


def _write(state: Mapping[str, Any], number: str, moment: Tensor) -> None:
    held: Tensor = state[f"state{number}"]
    if held.dtype != torch.uint8:
        held.copy_(moment)
        return
    code = state[f"qmap{number}"]
    blocks = F.pad(moment.reshape(-1), (0, -moment.numel() % BLOCK)).view(-1, BLOCK)
    # The code reaches 1 and, below 0, not quite -1: a block whose greatest value is negative was scaled beyond it.
    scales = torch.maximum(blocks.amax(1), blocks.amin(1) / code[0]) if code[0] < 0 else blocks.amax(1)
    levels = torch.bucketize(blocks / scales.clamp(min=1e-38)[:, None], (code[1:] + code[:-1]) / 2)
    held.copy_(levels.view(-1)[: moment.numel()].view(held.shape))
    state[f"absmax{number}"].copy_(scales)
