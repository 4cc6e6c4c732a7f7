"""Making a decoder's parameters trainable or frozen, as a run's `tune` says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from danlu.ledger.errors import UserError
from danlu.model.adapt import AdapterShape, attach, has_adapter, merge, slots, trained
from danlu.model.adapter_folder import Base
from danlu.model.folder import save_decoder
from danlu.model.nf4 import quantise
from danlu.train.parallel import World
from danlu.train.tune_settings import AdapterForm, Full, Layers, LoRA, QLoRA, asked_form

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder
    from danlu.tokens.tokenizer import Tokenizer

BASE = "base"


def adapter_shape(tune: LoRA) -> AdapterShape:
    """What the settings ask for, as adapters are made."""
    return AdapterShape(
        rank=tune.rank,
        alpha=tune.alpha or 2.0 * tune.rank,
        dropout=tune.dropout,
        targets=tuple(tune.targets),
        rank_stabilised=tune.rslora,
        magnitudes=tune.dora,
        start=tune.start,
        over="nf4" if isinstance(tune, QLoRA) else "full",
    )


def tune(decoder: Decoder, how: Full | Layers | LoRA | QLoRA, dtype: torch.dtype, seed: int) -> None:
    """Freezes what is not trained, in `dtype` or 4 bits, and puts an adapter on where one is asked for.

    Raises UserError as `freeze` does.
    """
    freeze(decoder, how, dtype, seed)
    if isinstance(how, QLoRA):
        for _, _, slot in slots(decoder):
            if slot.quantised is None:
                slot.quantise(quantise(slot.weight.data))


def freeze(decoder: Decoder, how: Full | Layers | LoRA | QLoRA, dtype: torch.dtype, seed: int) -> None:
    """The same, with what will be in 4 bits still in `dtype`; on a decoder without values, too.

    An adapter that the decoder brings is trained on where `how` asks for one of its rank, and else merged.
    Raises UserError for an adapter of another rank or scale and for more layers than there are.
    """
    if isinstance(how, LoRA):
        if has_adapter(decoder):
            _go_on(decoder, how)
        else:
            attach(decoder, adapter_shape(how), seed)
        if decoder.reward is not None:  # a head that begins at random is trained as it is
            decoder.reward.requires_grad_(True)
    elif has_adapter(decoder):
        merge(decoder, torch.float32)
        decoder.requires_grad_(True)
    if isinstance(how, Layers):
        if how.last > len(decoder.blocks):
            raise UserError(
                f"the model has {len(decoder.blocks)} layers, and {how.last} are to be trained",
                where="tune.last",
                do="lower it, or train all with tune: {method: full}",
            )
        decoder.requires_grad_(False)
        for module in (*decoder.blocks[-how.last :], decoder.norm, *([decoder.reward] if decoder.reward else ())):
            module.requires_grad_(True)
    for parameter in decoder.parameters():
        if not parameter.requires_grad and dtype.itemsize < parameter.dtype.itemsize:
            parameter.data = parameter.data.to(dtype)


def base_of(decoder: Decoder, out: Path, world: World, tokenizer: Tokenizer) -> Base:
    """The folder that an adapter will name as its base; weights that come from none are written to `out`/base."""
    folder = decoder.origin
    if folder is None:
        folder = out / BASE
        if world.main and not (folder / "config.json").exists():
            save_decoder(decoder, folder, tokenizer)
        world.wait()
    return Base.of(folder)


def _go_on(decoder: Decoder, how: LoRA) -> None:
    decoder.requires_grad_(False)
    for layer, _, adapter in trained(decoder):
        adapter.dropout = how.dropout
        for pair in adapter.of():
            found, asked = AdapterForm(pair.rank, pair.scale, pair.magnitude is not None), asked_form(how)
            if not found.fits(asked):
                raise UserError(
                    f"the adapter to start from has {found} in layer {layer}, and tune asks for {asked}",
                    where="tune",
                    do="give tune the same rank, alpha, rslora and dora, or merge the adapter first (danlu export)",
                )
            for parameter in (pair.a, pair.b, pair.magnitude):
                if parameter is not None:
                    parameter.requires_grad_(True)
    decoder.random = how.dropout > 0
