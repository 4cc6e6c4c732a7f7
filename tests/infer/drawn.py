"""Small decoders whose weights, norms and adapters too, are drawn at random."""

from __future__ import annotations

from typing import Any

import torch

from danlu.model.adapt import AdapterShape, attach, load_several, slots
from danlu.model.adapters import LoRA
from danlu.model.decoder import Decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings


def drawn(shape: dict[str, Any], **more: Any) -> Decoder:
    settings = {"vocab_size": 90, "hidden_size": 32, "layers": 3, "mlp_size": 48, **shape, **more}
    decoder = Decoder.empty(ModelSettings.model_validate(settings))
    initialise(decoder, 0)
    torch.manual_seed(0)
    for parameter in decoder.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return decoder.requires_grad_(False)


def with_adapters(decoder: Decoder, *kinds: AdapterShape, size: float = 0.1) -> Decoder:
    """The decoder with adapters of these kinds, to be chosen by row; numbers of their B's are of that size."""
    found = []
    for seed, kind in enumerate(kinds):
        attach(decoder, kind, seed)
        own = {(layer, name): slot.adapters for layer, name, slot in slots(decoder) if isinstance(slot.adapters, LoRA)}
        random = torch.Generator().manual_seed(seed)
        for pair in [pair for adapter in own.values() for pair in adapter.of()]:
            pair.b.data.copy_(torch.randn(pair.b.shape, generator=random) * size)
        for _, _, slot in slots(decoder):
            slot.adapters = None
        found.append(own)
    load_several(decoder, found, decoder.norm.weight.dtype)
    return decoder.requires_grad_(False)
