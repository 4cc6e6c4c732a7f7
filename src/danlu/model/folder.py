"""A decoder in a Hugging Face folder: config.json, safetensors in one file or shards, generation_config.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file, atomic_folder, require_space
from danlu.model.decoder import Decoder
from danlu.model.families.baichuan import OWN_CLASS
from danlu.model.families.config import Stated, decoder_settings, read_config, read_config_file, write_config
from danlu.model.packed import as_stored, packed_rows
from danlu.model.parts import unfused_state
from danlu.model.pour import pour, require_memory
from danlu.model.projection import Projection, Quantised
from danlu.model.settings import block_parameters, require_rows
from danlu.model.stored import INDEX, SINGLE, Place, Stored, some
from danlu.model.tensors import write_tensors

if TYPE_CHECKING:
    from danlu.tokens.tokenizer import Tokenizer

__all__ = ["decoder_settings", "load_decoder", "require_weights", "save_decoder"]

_OWN_CLASS = Path(__file__).parent / "families" / f"{OWN_CLASS}.py"


def load_decoder(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    quantise: Callable[[Tensor], Quantised] | None = None,
    bits: float = 0.0,
) -> Decoder:
    """The decoder of a Hugging Face folder or a checkpoint, its weights in `dtype` on `device`.

    `quantise` makes of each projection's weight one of `bits` bits a value, layer by layer, so that never more than one
    layer is there in `dtype`.

    Files are mapped and read one after the other, so the host holds one of them beside the decoder at most.
    Raises UserError for an unsupported or contradicting config, for weights that are missing, too many, of another
    shape, damaged, or in a pickle that holds more than tensors, and, before anything is read, for too little memory.
    """
    stated, device = read_config(folder), torch.device(device)
    quantised = block_parameters(stated.shape) if quantise else 0
    require_memory(stated.shape, dtype, device, folder, saved=quantised * (dtype.itemsize - bits / 8))
    stored = _fitting(folder, stated)
    decoder = Decoder.empty(stated.shape, dtype, "meta")
    if quantise is None:
        pour(decoder.to_empty(device=device), stored, stated)
    else:
        _pour_quantised(decoder, stored, stated, device, quantise)
    decoder.origin = folder
    return decoder


def _pour_quantised(
    decoder: Decoder, stored: Stored, stated: Stated, device: torch.device, quantise: Callable[[Tensor], Quantised]
) -> None:
    for number, block in enumerate(decoder.blocks):
        block.to_empty(device=device)
        own = [part for part in decoder.parts() if part.holder.startswith(f"blocks.{number}.")]
        pour(decoder, stored, stated, own)
        for slot in block.children():
            if isinstance(slot, Projection):
                slot.quantise(quantise(slot.weight.data))
    rest = [module for name, module in decoder.named_children() if name != "blocks"]
    for module in rest:
        module.to_empty(device=device)
    pour(decoder, stored, stated, [part for part in decoder.parts() if not part.holder.startswith("blocks.")])


def save_decoder(
    decoder: Decoder,
    folder: Path,
    tokenizer: Tokenizer | None = None,
    *,
    shard_bytes: float = 5e9,
    dtype: torch.dtype | None = None,
    stop_ids: Sequence[int] = (),
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a folder that `load_decoder` and transformers' AutoModelForCausalLM open.

    A new folder appears whole or not at all; into one that is there (the caller's atomic folder) the files are laid
    beside what it holds. `dtype` is that of the file (None: the weights' own), `stop_ids` end generation beside the
    tokenizer's end, `state` (as `unfused_state` gives it) replaces the decoder's own weights.
    Raises UserError for a folder that holds a model, a vocabulary beyond the embedding, and a full disk.
    """
    if (folder / "config.json").exists():
        raise UserError("a model is here already", where=str(folder), do="choose another folder")
    if tokenizer is not None:
        require_rows(decoder.settings, tokenizer.vocab_size)
    weights = as_stored(decoder, unfused_state(decoder) if state is None else state)
    written = dtype or next(iter(weights.values())).dtype
    require_space(folder, sum(value.numel() for value in weights.values()) * written.itemsize, "the model")
    with ExitStack() as whole:
        place = folder if folder.exists() else whole.enter_context(atomic_folder(folder))
        _write_weights(weights, place, shard_bytes, written)
        ids = save_words(place, tokenizer, stop_ids)
        name = str(written).removeprefix("torch.")
        _write_json(place / "config.json", write_config(decoder.settings) | ids | {"dtype": name, "torch_dtype": name})
        if decoder.settings.positions == "alibi":
            shutil.copyfile(_OWN_CLASS, place / _OWN_CLASS.name)


def stored_dtype(folder: Path) -> str:
    """The format of a folder's weights as its config.json states it, such as bfloat16; float32 where it does not."""
    config = read_config_file(folder)
    stated = config.get("dtype") or config.get("torch_dtype")
    return stated if stated in ("bfloat16", "float16") else "float32"


def save_words(folder: Path, tokenizer: Tokenizer | None, stop_ids: Sequence[int] = ()) -> dict[str, int | None]:
    """Lays the tokenizer and what ends generation into a folder; gives the special ids as config.json names them."""
    ids: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        tokenizer.save(folder)
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    stops = list(dict.fromkeys([*stop_ids, *([ids["eos_token_id"]] if ids["eos_token_id"] is not None else [])]))
    _write_json(folder / "generation_config.json", ids | {"eos_token_id": stops or None})
    return ids


def require_weights(folder: Path) -> None:
    """Raises UserError, as `load_decoder` does, for a config and weights that do not make a decoder: from the names and
    shapes in the files' headers, without reading a value.
    """
    _fitting(folder, read_config(folder))


def _fitting(folder: Path, stated: Stated) -> Stored:
    """The files of a folder. Raises UserError unless they hold just the decoder's weights, in its shapes."""
    stored, decoder = Stored(folder), Decoder.empty(stated.shape, device="meta")
    family, wanted = stated.family, dict[str, tuple[int, ...]]()
    for part in decoder.parts():
        name, slot = family.holder(part.name)
        wanted[name] = part.shape if slot is None else (packed_rows(decoder.settings), *part.shape[1:])
    places = stored.places
    _require_floating({name: places[name] for name in wanted if name in places})
    missing = [name for name in wanted if name not in places]
    extra = [name for name in places if name not in wanted and not _may_be_there(name, stated, stored)]
    other = [
        f"{name} is {list(places[name].shape)} and not {list(shape)}"
        for name, shape in wanted.items()
        if name in places and places[name].shape != shape
    ]
    complaints = [
        f"{what} {len(names)} ({some(names)})"
        for what, names in (("weights missing:", missing), ("weights unknown:", extra), ("wrong shapes:", other))
        if names
    ]
    if complaints:
        raise UserError(
            "; ".join(complaints),
            where=str(folder),
            do="these weights and this config.json do not belong together: copy both again from their origin",
        )
    return stored


def _require_floating(places: Mapping[str, Place]) -> None:
    """Raises UserError for weights in integers, which mean nothing without the scales of what quantised them."""
    found = [(name, place) for name, place in places.items() if not place.dtype.is_floating_point]
    if found:
        names = some([f"{name} in {str(place.dtype).removeprefix('torch.')}" for name, place in found])
        raise UserError(
            f"{len(found)} of {len(places)} weights are stored as integers ({names}): they were quantised, and "
            "config.json does not say how",
            where=str(found[0][1].path),
            do="get the model in bf16, fp16 or float32; where memory is short, load that with quantize=int8",
        )


def _may_be_there(name: str, stated: Stated, stored: Stored) -> bool:
    """Old files keep rotary frequencies, and some a copy of the embedding as the tied head."""
    if stated.shape.tie_embeddings and name == stated.family.on_disk("head.weight"):
        embedding = stated.family.on_disk("embed.weight")
        return embedding in stored.places and torch.equal(stored.read(name), stored.read(embedding))
    return name.endswith("rotary_emb.inv_freq")


def _write_weights(weights: Mapping[str, Tensor], folder: Path, shard_bytes: float, dtype: torch.dtype) -> None:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, value in weights.items():
        size = value.numel() * dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    names = [SINGLE] if len(shards) == 1 else [_shard(number, len(shards)) for number in range(1, len(shards) + 1)]
    for file, inside in zip(names, shards, strict=True):
        write_tensors(folder / file, {name: weights[name] for name in inside}, dtype)
    if len(shards) > 1:
        total = sum(value.numel() for value in weights.values()) * dtype.itemsize
        where = {name: file for file, inside in zip(names, shards, strict=True) for name in inside}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _shard(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_file(path) as handle:
        json.dump(content, handle, indent=2, ensure_ascii=False)
        handle.write("\n")
