"""Training in float8: which products are, and where that cannot be."""

from __future__ import annotations

import torch
from torch import nn

from danlu.ledger.errors import UserError
from danlu.model.float8 import ALIGNED, CAPABILITY
from danlu.model.projection import Projection


def use_float8(blocks: nn.ModuleList, device: torch.device) -> None:
    """Has the products of all projections in these blocks done in float8.

    Raises UserError for a GPU that has no such products and for sizes that they do not take.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has no products in float8",
            where="train.precision",
            do="set bf16; float8 needs Ada (RTX 4090, L40), Hopper (H100, H200) or later",
        )
    for name, slot in blocks.named_modules():
        if not isinstance(slot, Projection):
            continue
        if slot.in_features % ALIGNED or slot.out_features % ALIGNED:
            raise UserError(
                f"products in float8 need sizes that are multiples of {ALIGNED}, and layer {name} has a weight of "
                f"{slot.out_features} × {slot.in_features}",
                where="train.precision",
                do="set bf16, or change the model's hidden_size, heads or mlp_size",
            )
        slot.float8 = True
