"""Opening a folder, whichever it is: a model, or an adapter over its base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from danlu.model.adapter_folder import Base, attach_stored, base_folder, is_adapter, read_adapter
from danlu.model.decoder import Decoder
from danlu.model.folder import decoder_settings, load_decoder, require_weights
from danlu.model.integers import INT4_BITS, INT8_BITS, quantise_ends, to_int4, to_int8
from danlu.model.nf4 import BITS, quantise
from danlu.model.projection import Quantised
from danlu.model.reward_head import reward_shape
from danlu.model.settings import ModelSettings

Quantisation = Literal["nf4", "int8", "int4"]
"""nf4 trains under adapters (QLoRA); int8 and int4 are for inference, and take embedding and head in 8 bits too."""

_KINDS: dict[Quantisation, tuple[Callable[[Tensor], Quantised], float]] = {
    "nf4": (quantise, BITS),
    "int8": (to_int8, INT8_BITS),
    "int4": (to_int4, INT4_BITS),
}


def open_decoder(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    quantisation: Quantisation | None = None,
) -> Decoder:
    """The decoder of a model's folder; of an adapter's, its base with the adapter on, in float32 and frozen.

    Raises UserError as `load_decoder`, `read_adapter` and `attach_stored` do.
    """
    if not is_adapter(folder):
        if quantisation is None:
            return load_decoder(folder, dtype, device)
        form, bits = _KINDS[quantisation]
        decoder = load_decoder(folder, dtype, device, quantise=form, bits=bits)
        if quantisation != "nf4":
            quantise_ends(decoder)
        return decoder
    stored = read_adapter(folder)
    base = base_folder(stored)
    decoder = open_decoder(base, dtype, device, quantisation=quantisation)
    attach_stored(decoder, stored, Base.of(base))
    decoder.requires_grad_(False)
    return decoder


def require_readable(folder: Path) -> None:
    """Raises UserError where `open_decoder` would find weights missing or damaged: of a model from their headers."""
    require_weights(base_folder(read_adapter(folder)) if is_adapter(folder) else folder)


def shape_of(folder: Path) -> ModelSettings:
    """The shape of the decoder that `open_decoder` would give."""
    if not is_adapter(folder):
        return decoder_settings(folder)
    stored = read_adapter(folder)
    shape = decoder_settings(base_folder(stored))
    return shape if stored.score is None else reward_shape(shape)
