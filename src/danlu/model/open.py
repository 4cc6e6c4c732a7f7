"""Opening a folder, whichever it is: a model, or an adapter over its base."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from danlu.model.adapter_folder import Base, attach_stored, base_folder, is_adapter, read_adapter
from danlu.model.decoder import Decoder
from danlu.model.folder import decoder_settings, load_decoder
from danlu.model.nf4 import BITS, quantise
from danlu.model.settings import ModelSettings

Quantisation = Literal["nf4"]


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
        quantised = {"quantise": quantise, "bits": BITS} if quantisation == "nf4" else {}
        return load_decoder(folder, dtype, device, **quantised)  # type: ignore[arg-type]
    stored = read_adapter(folder)
    base = base_folder(stored)
    decoder = open_decoder(base, dtype, device, quantisation=quantisation)
    attach_stored(decoder, stored, Base.of(base))
    decoder.requires_grad_(False)
    return decoder


def shape_of(folder: Path) -> ModelSettings:
    """The shape of the decoder that `open_decoder` would give."""
    return decoder_settings(base_folder(read_adapter(folder)) if is_adapter(folder) else folder)
