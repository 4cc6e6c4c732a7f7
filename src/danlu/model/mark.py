"""What tells the weights of a model's folder from others of the same shape."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from danlu.model.families.config import read_config
from danlu.model.packed import packed_views
from danlu.model.stored import Stored, opened

_ENDS = ("o", "down")
_PROJECTIONS = ("q", "k", "v", *_ENDS, "gate", "up")


def marks_of(folder: Path) -> tuple[str, ...]:
    """The mark of a folder's projections, and that of `o` and `down` alone, which earlier adapters carry.

    A hash of each matrix's first and last row, rounded to bfloat16, so that format, sharding and the form of the names
    do not matter. Few pages of the files are read. Raises UserError as `read_config` and `Stored` do.
    """
    (shape, family, _), stored = read_config(folder), Stored(folder)
    views = packed_views(shape, family.packed.grouped) if family.packed else {}
    wanted: dict[str, list[tuple[str, str | None]]] = {}
    for part in (f"layers.{layer}.{weight}.weight" for layer in range(shape.layers) for weight in _PROJECTIONS):
        name, slot = family.holder(part)
        wanted.setdefault(name, []).append((part, slot))
    digests: dict[str, str] = {}
    for path in stored.paths:
        with opened(path) as tensors:
            for name in filter(wanted.__contains__, stored.names(path)):
                whole = tensors[name]
                digests |= {part: _digest(views[slot](whole) if slot else whole) for part, slot in wanted[name]}
    ends = sorted(digest for part, digest in digests.items() if part.split(".")[2] in _ENDS)
    return _hash("".join(f"{part} {digest}\n" for part, digest in sorted(digests.items()))), _hash("".join(ends))


def _digest(rows: Tensor) -> str:
    first, last = (rows[(end,) * (rows.ndim - 1)] for end in (0, -1))
    return hashlib.sha256(torch.stack((first, last)).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()).hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
