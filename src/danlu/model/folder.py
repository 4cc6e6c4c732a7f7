"""A decoder in a Hugging Face folder: config.json, safetensors in one file or shards, generation_config.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file, atomic_folder, require_space
from danlu.model.decoder import Decoder
from danlu.model.families.config import decoder_settings, write_config
from danlu.model.families.table import FAMILIES
from danlu.model.parts import load_unfused, unfused_state
from danlu.model.settings import require_rows
from danlu.model.tensors import write_tensors

if TYPE_CHECKING:
    from danlu.tokens.tokenizer import Tokenizer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_decoder(folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Decoder:
    """The decoder of a Hugging Face folder or a checkpoint, its weights in `dtype` on `device`.

    Raises UserError for an unsupported or contradicting config, and for weights that are missing, too many, of
    another shape, damaged or pickled.
    """
    settings = decoder_settings(folder)
    decoder = Decoder.empty(settings, dtype, device)
    with ExitStack() as open_files:
        state = _Stored(folder, open_files)
        _require_fit(decoder, state, folder)
        load_unfused(decoder, state)
    return decoder


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
    weights = dict(unfused_state(decoder) if state is None else state)
    written = dtype or next(iter(weights.values())).dtype
    require_space(folder, sum(value.numel() for value in weights.values()) * written.itemsize, "the model")
    with ExitStack() as whole:
        place = folder if folder.exists() else whole.enter_context(atomic_folder(folder))
        _write_weights(weights, place, shard_bytes, written)
        ids: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        if tokenizer is not None:
            tokenizer.save(place)
            ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        name = str(written).removeprefix("torch.")
        _write_json(place / "config.json", write_config(decoder.settings) | ids | {"dtype": name, "torch_dtype": name})
        stops = list(dict.fromkeys([*stop_ids, *([ids["eos_token_id"]] if ids["eos_token_id"] is not None else [])]))
        _write_json(place / "generation_config.json", ids | {"eos_token_id": stops or None})


class _Stored(Mapping[str, Tensor]):
    """The weights of a folder by name, read from the disk when asked for."""

    def __init__(self, folder: Path, open_files: ExitStack) -> None:
        self.files: dict[str, Any] = {}
        for path in _weight_files(folder):
            try:
                file = open_files.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"damaged or cut short ({error})", where=str(path), do="copy or download this file again"
                ) from error
            self.files |= dict.fromkeys(file.keys(), file)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.files[name].get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, those that its index names where it has one."""
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"not an index of weights ({error})", where=str(folder / INDEX), do="copy or download this file again"
            ) from error
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise UserError(f"missing: {_some(absent)}", where=str(folder), do="copy or download these files too")
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    raise UserError(
        f"no {SINGLE} here" + (f"; {_some(pickled)} would run code when opened and is not read" if pickled else ""),
        where=str(folder),
        do="get the model's safetensors" if pickled else "name a folder that holds weights beside its config.json",
    )


def _require_fit(decoder: Decoder, state: _Stored, folder: Path) -> None:
    """Raises UserError unless the files hold just the decoder's weights, in its shapes."""
    wanted = {part.on_disk: part.shape for part in decoder.parts()}
    missing = [name for name in wanted if name not in state.files]
    extra = [name for name in state if name not in wanted and not _may_be_there(name, decoder, state)]
    other = [
        f"{name} is {list(state.shape(name))} and not {list(shape)}"
        for name, shape in wanted.items()
        if name in state.files and state.shape(name) != shape
    ]
    complaints = [
        f"{what} {len(names)} ({_some(names)})"
        for what, names in (("weights missing:", missing), ("weights unknown:", extra), ("wrong shapes:", other))
        if names
    ]
    if complaints:
        raise UserError(
            "; ".join(complaints),
            where=str(folder),
            do="these weights and this config.json do not belong together: copy both again from their origin",
        )


def _may_be_there(name: str, decoder: Decoder, state: _Stored) -> bool:
    """Old files keep rotary frequencies, and some a copy of the embedding as the tied head."""
    family = FAMILIES[decoder.settings.family]
    if decoder.settings.tie_embeddings and name == family.on_disk("head.weight"):
        embedding = family.on_disk("embed.weight")
        return embedding in state.files and torch.equal(state[name], state[embedding])
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


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
