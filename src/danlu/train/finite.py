"""Where weights that are computed with hold what is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from danlu.ledger.errors import UserError
from danlu.model.decoder import Decoder
from danlu.model.stored import some
from danlu.train.parallel import World, whole


@torch.no_grad()
def require_finite(decoder: Decoder, blank: Decoder, world: World) -> None:
    """Raises UserError on every process where weights hold NaN or infinity, naming them as they are on disk.

    All processes call this together. `blank` is any decoder of the shape.
    """
    held = dict(_held(decoder))
    wrong = world.total([float(not _finite(value)) for value in held.values()])
    names = list(
        dict.fromkeys(
            name
            for (holder, value), found in zip(held.items(), wrong, strict=True)
            if found
            for name in _on_disk(blank, holder, whole(value))
        )
    )
    if names:
        raise UserError(
            f"{len(names)} of the weights hold NaN or infinity, so the loss is no number: {some(names)}",
            where=str(decoder.origin or "the decoder"),
            do="copy or download the model to start from again, or start from another checkpoint of the run that made "
            "it; one in fp16 may have weights beyond what fp16 holds: set train.precision: bf16",
        )


def _held(decoder: Decoder) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and what the scales of weights in 4 bits are."""
    yield from decoder.named_parameters()
    yield from ((name, value) for name, value in decoder.named_buffers() if value.is_floating_point())


def _finite(value: Tensor) -> bool:
    """The sum is finite only if all of it is, and takes no memory."""
    own = value.to_local() if isinstance(value, DTensor) else value
    return math.isfinite(own.sum(dtype=torch.promote_types(own.dtype, torch.float32)))


def _on_disk(blank: Decoder, holder: str, value: Tensor) -> list[str]:
    """The weights inside a parameter that are not finite: all of one in 4 bits, itself where it is none on disk."""
    slot, quantised, _ = holder.partition(".quantised.")
    holder = f"{slot}.weight" if quantised else holder
    inside = [part for part in blank.parts() if part.holder == holder]
    return [part.on_disk for part in inside if quantised or not _finite(part.read(value))] or [holder]
