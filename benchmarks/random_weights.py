"""Decoders and tokenizers of any size that are in no folder: random weights made on the device that computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from danlu.model.decoder import Decoder
from danlu.model.families.config import write_config
from danlu.model.projection import Projection, Quantised
from danlu.model.settings import ModelSettings
from danlu.recipe import job as jobs

STD = 0.02


def random_weight(name: str, like: Tensor) -> Tensor:
    """What `like` becomes: a weight that depends on its name on disk, its device and its format alone."""
    if like.ndim == 1:
        return torch.zeros_like(like) if name.endswith("bias") else torch.ones_like(like)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    return torch.empty_like(like).normal_(0.0, STD, generator=torch.Generator(like.device).manual_seed(seed))


@torch.no_grad()
def random_decoder(
    shape: ModelSettings,
    dtype: torch.dtype,
    device: torch.device | str,
    quantise: Callable[[Tensor], Quantised] | None = None,
) -> Decoder:
    """A decoder of random weights; with `quantise` no more than one layer is ever there in `dtype`."""
    decoder = Decoder.empty(shape, dtype, "meta")
    for name, module in (*decoder.blocks.named_children(), *decoder.named_children()):
        if name == "blocks":
            continue
        module.to_empty(device=device)
        holder = f"blocks.{name}." if name.isdigit() else f"{name}."
        for part in decoder.parts():
            if part.holder.startswith(holder):
                own = torch.empty(part.shape, dtype=dtype, device=device)
                part.write(part.parameter.detach(), random_weight(part.on_disk, own))
        for slot in module.children():
            if quantise is not None and isinstance(slot, Projection):
                slot.quantise(quantise(slot.weight.data))
    return decoder


@contextmanager
def started_from(make: Callable[[], Decoder], shape: ModelSettings, folder: Path) -> Iterator[None]:
    """Within it jobs start from what `make` gives in place of weights in a folder; an adapter names `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(write_config(shape)), "utf-8")
    save_file({}, folder / "model.safetensors")  # of which an adapter's mark is made

    def start(*_: Any) -> Decoder:
        decoder = make()
        decoder.origin = folder
        return decoder

    before, jobs._decoder = jobs._decoder, start
    try:
        yield
    finally:
        jobs._decoder = before


def first_entries(tokenizer: Path, entries: int, out: Path) -> Path:
    """A folder with a byte-level BPE of so many entries: the first merges of that of `tokenizer`, and its markup.

    Merges are in the order in which they were learned, so that this is what the same training gives when it ends there.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = json.loads((tokenizer / "tokenizer.json").read_text("utf-8"))
    model, added = content["model"], content["added_tokens"]
    plain = entries - len(added)
    moved = {old["id"]: plain + number for number, old in enumerate(sorted(added, key=lambda one: one["id"]))}
    kept = {token: id for token, id in model["vocab"].items() if id < plain}
    model["merges"] = model["merges"][: plain - (len(model["vocab"]) - len(model["merges"]))]
    model["vocab"] = kept
    for one in added:
        one["id"] = moved[one["id"]]
    (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    named = json.loads((tokenizer / "tokenizer_config.json").read_text("utf-8"))
    named["added_tokens_decoder"] = {
        str(moved[int(id)]): one for id, one in named.get("added_tokens_decoder", {}).items()
    }
    (out / "tokenizer_config.json").write_text(json.dumps(named, ensure_ascii=False), "utf-8")
    return out
