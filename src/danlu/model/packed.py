"""q, k and v that lie in one matrix on disk, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from danlu.model.families.table import FAMILIES
from danlu.model.settings import ModelSettings

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder

View = Callable[[Tensor], Tensor]


def packed_views(settings: ModelSettings, grouped: bool) -> dict[str, View]:
    """Views of q, k and v in a packed matrix [(H + 2 K) D, ...], their rows in one dimension or more.

    `grouped`: for each key-value head its queries, its key, its value; else all of q, all of k, all of v.
    """
    head, queries = settings.head_size, settings.heads // settings.kv_heads
    q, k = settings.heads * head, settings.kv_heads * head
    if not grouped:
        return {"q": lambda w: w[:q], "k": lambda w: w[q : q + k], "v": lambda w: w[q + k :]}

    def heads(packed: Tensor) -> Tensor:
        return packed.unflatten(0, (settings.kv_heads, queries + 2, head))

    return {
        "q": lambda w: heads(w)[:, :queries],
        "k": lambda w: heads(w)[:, queries],
        "v": lambda w: heads(w)[:, queries + 1],
    }


def packed_rows(settings: ModelSettings) -> int:
    """Rows of a packed matrix."""
    return (settings.heads + 2 * settings.kv_heads) * settings.head_size


def as_stored(decoder: Decoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under unfused names (`unfused_state`) under the names and in the matrices of the family's files."""
    settings, stored = decoder.settings, dict[str, Tensor]()
    family = FAMILIES[settings.family]
    views = packed_views(settings, family.packed.grouped) if family.packed else {}
    for part in decoder.parts():
        name, slot = family.holder(part.name)
        value = state[part.on_disk]
        if slot is None:
            stored[name] = value
            continue
        if name not in stored:
            stored[name] = torch.empty(packed_rows(settings), *value.shape[1:], dtype=value.dtype, device=value.device)
        place = views[slot](stored[name])
        place.copy_(value.reshape(place.shape))
    return stored
