"""Small decoders whose weights, norms too, are drawn at random."""

from __future__ import annotations

from typing import Any

import torch

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
