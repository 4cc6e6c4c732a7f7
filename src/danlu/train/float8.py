"""Which products of a run are done in float8."""

from __future__ import annotations

from torch import nn

from danlu.ledger.errors import UserError
from danlu.model.float8 import ALIGNED
from danlu.model.float8_frozen import weight_scale
from danlu.model.projection import Projection


def use_float8(blocks: nn.ModuleList) -> None:
    """Has the products of all projections in these blocks done in float8.

    Raises UserError for sizes that they do not take.
    """
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
        if slot.held:
            slot.float8_scale = weight_scale(slot.held)
