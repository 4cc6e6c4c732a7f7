"""Rows of embedding and head for more tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from danlu.model.decoder import Decoder
from danlu.model.parts import load_unfused, unfused_state


def grow_vocabulary(decoder: Decoder, pieces: Mapping[int, Sequence[int]], multiple: int = 128) -> Decoder:
    """A decoder with a row for every token of `pieces` {new id: old ids}, its rows rounded up to `multiple`.

    A new token's vectors, in the embedding and in the head, are the means of its pieces'; rows that no token has yet
    are the mean of all before the new ones. So a new token's probability, over that of the old ones together, is the
    geometric mean of its pieces' (the sum over the vocabulary that the loss divides by grows by no more than that
    share), and nothing else changes.
    """
    first, old_rows = min(pieces), decoder.settings.vocab_size
    rows = max(old_rows, -(-(max(pieces) + 1) // multiple) * multiple)
    grown = Decoder.empty(
        decoder.settings.model_copy(update={"vocab_size": rows}),
        decoder.embed.weight.dtype,
        decoder.embed.weight.device,
    )
    state = unfused_state(decoder)
    for part in decoder.parts():
        if part.name not in ("embed.weight", "head.weight"):
            continue
        old_VD = state[part.on_disk]
        wide = torch.promote_types(old_VD.dtype, torch.float32)
        new_VD = old_VD[:first].mean(0, dtype=wide).to(old_VD.dtype).repeat(rows, 1)
        new_VD[:old_rows] = old_VD
        for id, ids in pieces.items():
            new_VD[id] = old_VD[list(ids)].mean(0, dtype=wide)
        state[part.on_disk] = new_VD
    load_unfused(grown, state)
    return grown
