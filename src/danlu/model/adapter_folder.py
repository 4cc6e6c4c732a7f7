"""Adapters on disk, in PEFT's form: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file, read_json
from danlu.model.adapt import AdapterShape, known_targets, packed_in, slots, trained
from danlu.model.adapters import LoRA, Pair
from danlu.model.families.table import FAMILIES
from danlu.model.projection import Projection
from danlu.model.reward_head import reward_decoder
from danlu.model.tensors import write_tensors

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SCORE = _PREFIX + "score.weight"
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


@dataclass(frozen=True)
class Base:
    """The folder whose weights an adapter belongs to, and a mark of them."""

    folder: str
    mark: str

    @classmethod
    def of(cls, folder: Path) -> Base:
        return cls(str(folder.resolve()), mark_of(folder))


@dataclass(frozen=True)
class Module:
    """An adapter's tensors for one module on disk."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None
    scale: float


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as read from its folder; modules by their path on disk, such as `model.layers.0.self_attn.q_proj`."""

    folder: Path
    shape: AdapterShape
    base: Base
    modules: Mapping[str, Module]
    score: Tensor | None = None
    """Of a reward model, its head [1, D]."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and not a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def mark_of(folder: Path) -> str:
    """What tells weights from others of the same shape: a hash of the first and last rows of the matrices that end
    attention and MLP in each layer, rounded to bfloat16, so that format and sharding do not matter. Empty where there
    are no safetensors.
    """
    ends = tuple(
        family.on_disk(f"layers.0.{part}.weight").rpartition("layers.0.")[2]
        for family in FAMILIES.values()
        for part in ("o", "down")
    )
    digests = []
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # the file is no mapping
                if name.endswith(ends):
                    tensor = file.get_slice(name)
                    rows = torch.stack((tensor[0], tensor[-1])).to(torch.bfloat16)
                    digests.append(hashlib.sha256(rows.view(torch.uint8).numpy().tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest() if digests else ""


def write_adapter(
    decoder: Decoder,
    folder: Path,
    shape: AdapterShape,
    base: Base | None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the decoder's adapter into a folder that is there, so that PEFT opens it over the base.

    A reward model's head is written beside it, as PEFT writes `modules_to_save`.
    `tensors` {parameter name: tensor} are taken in the place of the adapter's own. What PiSSA began with becomes a
    second half of the rank, as in PEFT's own conversion, so that the base stays as it was.
    """
    state, modules = dict[str, Tensor](), set[str]()
    family = FAMILIES[decoder.settings.family]
    names = {id(parameter): name for name, parameter in decoder.named_parameters()}

    def value(parameter: Tensor) -> Tensor:
        found = parameter if tensors is None else tensors[names[id(parameter)]]
        return found.detach().cpu()

    for layer, slot, adapter in trained(decoder):
        for pair in adapter.of():
            a, b = value(pair.a), value(pair.b)
            if pair.start_a is not None and pair.start_b is not None:
                a, b = torch.cat((a, value(pair.start_a).to(a))), torch.cat((b, -value(pair.start_b).to(b)), dim=1)
            sizes = [slot.inside[name] for name in pair.covers]
            on_disk = [family.on_disk(f"layers.{layer}.{name}.weight") for name in pair.covers]
            if pair.covers == packed_in(family):
                sizes, on_disk = [sum(sizes)], [family.holder(f"layers.{layer}.q.weight")[0]]
            magnitudes = value(pair.magnitude).split(sizes) if pair.magnitude is not None else [None] * len(sizes)
            for name, b_own, magnitude in zip(on_disk, b.split(sizes), magnitudes, strict=True):
                module = name.removesuffix(".weight")
                modules.add(module.rpartition(".")[2])
                state[_PREFIX + module + _A], state[_PREFIX + module + _B] = a, b_own
                if magnitude is not None:
                    state[_PREFIX + module + _MAGNITUDE] = magnitude
    if decoder.reward is not None:
        state[_SCORE] = value(decoder.reward.score.weight)
    rank = shape.rank * (2 if shape.start == "pissa" else 1)
    alpha = shape.scale() * (rank**0.5 if shape.rank_stabilised else rank)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if decoder.reward is None else "SEQ_CLS",
        "base_model_name_or_path": base.folder if base else None,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": shape.dropout,
        "target_modules": sorted(modules),
        "use_rslora": shape.rank_stabilised,
        "use_dora": shape.magnitudes,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None if decoder.reward is None else ["score"],
    }
    write_tensors(folder / WEIGHTS, state, metadata={"base": base.mark if base else "", "over": shape.over})
    with atomic_file(folder / CONFIG) as handle:
        json.dump(config, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def read_adapter(folder: Path) -> StoredAdapter:
    """An adapter's shape and tensors.

    Raises UserError for a folder that is no adapter, one of another kind than LoRA, settings that change what is
    computed, tensors that belong to no pair, and files that are damaged or pickled.
    """
    config = _read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = "; adapter_model.bin would run code when opened and is not read" if _bin(folder) else ""
        raise UserError(f"no {WEIGHTS} here{pickled}", where=str(folder), do="save the adapter as safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"damaged or cut short ({error})", where=str(path), do="copy this file again") from error
    score = tensors.pop(_SCORE, None)
    if (score is None) != (not config.get("modules_to_save")):
        raise UserError("modules_to_save and what is saved do not agree", where=str(path), do="copy both files again")
    shape = AdapterShape(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout") or 0.0,
        targets=tuple(_list(config.get("target_modules"))),
        rank_stabilised=bool(config.get("use_rslora")),
        magnitudes=bool(config.get("use_dora")),
        over="nf4" if metadata.get("over") == "nf4" else "full",
    )
    modules = {}
    for name in [name for name in tensors if name.endswith(_A)]:
        module = name.removesuffix(_A)
        a, b = tensors.pop(name), tensors.pop(module + _B, None)
        if b is None or a.shape[0] != b.shape[1]:
            raise UserError(f"{name} has no fitting lora_B", where=str(path), do="copy this file again")
        magnitude = tensors.pop(module + _MAGNITUDE, None)
        path_in_model = module.removeprefix(_PREFIX)
        alpha = _matching(config.get("alpha_pattern") or {}, path_in_model, config["lora_alpha"])
        modules[path_in_model] = Module(a, b, magnitude, shape.scale(a.shape[0], alpha))
    if tensors or not modules:
        strange = ", ".join(sorted(tensors)[:3]) or "no LoRA pair"
        raise UserError(f"tensors that are not LoRA's on projections: {strange}", where=str(path), do=_MERGE_THERE)
    return StoredAdapter(
        folder, shape, Base(config.get("base_model_name_or_path") or "", metadata.get("base", "")), modules, score
    )


def base_folder(stored: StoredAdapter) -> Path:
    """Where the adapter's base is. Raises UserError where it is not there."""
    path = Path(stored.base.folder)
    for place in (path, stored.folder / path):
        if stored.base.folder and (place / "config.json").is_file():
            return place
    raise UserError(
        f"the adapter's base {stored.base.folder or '(not named)'} is not a folder here",
        where=str(stored.folder / CONFIG),
        do="name the base yourself: danlu chat BASE adapter=ADAPTER",
    )


def loras(decoder: Decoder, stored: StoredAdapter, base: Base | None = None) -> dict[tuple[int, str], LoRA]:
    """The adapter as modules for the decoder's projections, {(layer, name in the block): LoRA}, in float32.

    Raises UserError where the adapter is for another base: another mark, modules or shapes.
    """
    if base and base.mark and stored.base.mark and base.mark != stored.base.mark:
        moved = stored.base.folder in ("", base.folder)
        raise UserError(
            "this adapter was trained on other weights" + ("" if moved else f": {stored.base.folder}"),
            where=str(stored.folder),
            do=f"put its own base back into {base.folder}"
            if moved
            else f"open it over its own base, not {base.folder}",
        )
    places = {(layer, part): (name, slot) for layer, name, slot in slots(decoder) for part in slot.inside}
    names, found = known_targets(decoder), dict[tuple[int, str], list[Pair]]()
    for path, module in stored.modules.items():
        layer, covers = re.search(r"layers\.(\d+)\.", path), names.get(path.rpartition(".")[2])
        place = places.get((int(layer[1]), covers[0])) if layer and covers else None
        if layer is None or covers is None or place is None:
            raise _other_base(stored, f"it has {path}, and the base no such module")
        name, slot = place
        wanted = (sum(slot.inside[part] for part in covers), slot.in_features)
        if (module.b.shape[0], module.a.shape[1]) != wanted:
            got = f"{module.b.shape[0]} × {module.a.shape[1]}"
            raise _other_base(stored, f"{path} is {got} and the base's {wanted[0]} × {wanted[1]}")
        found.setdefault((int(layer[1]), name), []).append(_pair(module, path, covers, slot))
    return {place: LoRA(pairs, stored.shape.dropout) for place, pairs in found.items()}


def attach_stored(decoder: Decoder, stored: StoredAdapter, base: Base | None = None) -> None:
    """Puts a stored adapter on the decoder, whose own weights are frozen; one of a reward model makes it one.

    Raises UserError as `loras` does.
    """
    found = loras(decoder, stored, base)
    if stored.score is not None:
        if stored.score.shape != (1, decoder.settings.hidden_size):
            rows, width = stored.score.shape
            raise _other_base(stored, f"its head is {rows} × {width}, not 1 × {decoder.settings.hidden_size}")
        reward = reward_decoder(decoder, seed=0).reward
        assert reward is not None
        reward.score.weight.data.copy_(stored.score)
    decoder.requires_grad_(False)
    for layer, name, slot in slots(decoder):
        adapter = found.get((layer, name))
        slot.adapters = adapter.to(slot.device) if adapter else None
    decoder.random = stored.shape.dropout > 0


def _pair(module: Module, path: str, covers: tuple[str, ...], slot: Projection) -> Pair:
    b, magnitude = module.b, module.magnitude
    if _grouped(path):  # rows lie as in the fused weight
        b = torch.cat([slot.view(part)(b).reshape(-1, b.shape[1]) for part in covers])
        if magnitude is not None:
            magnitude = torch.cat([slot.view(part)(magnitude).reshape(-1) for part in covers])
    pair = Pair(covers, module.a.float(), b.float(), module.scale)
    if magnitude is not None:
        pair.magnitude = nn.Parameter(magnitude.float())
    return pair


def _grouped(path: str) -> bool:
    name = path.rpartition(".")[2]
    return any(
        family.packed is not None and family.packed.grouped and family.packed.name.endswith(f"{name}.weight")
        for family in FAMILIES.values()
    )


_MERGE_THERE = "merge it with PEFT (merge_and_unload) and open the merged folder"
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, [], ["score"], ["classifier", "score"]),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "use_qalora": (False,),
}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"no {CONFIG} here", where=str(folder), do="name an adapter's folder")
    config = read_json(path, "copy the file again from its origin")
    missing = [key for key in ("r", "lora_alpha") if key not in config]
    strange = {key: config[key] for key, fine in _NEUTRAL.items() if config.get(key, fine[0]) not in fine}
    if strange:
        said = ", ".join(f"{key}: {value}" for key, value in strange.items())
        raise UserError(f"an adapter with {said} is not supported", where=str(path), do=_MERGE_THERE)
    if missing:
        raise UserError(f"{', '.join(missing)} missing", where=str(path), do="copy the file again")
    return config


def _matching(pattern: Mapping[str, float], module: str, default: float) -> float:
    """PEFT's rule: a key is a regular expression for the end of a module's path."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _other_base(stored: StoredAdapter, why: str) -> UserError:
    return UserError(
        f"this adapter is for another base: {why}",
        where=str(stored.folder),
        do=f"open it over {stored.base.folder or 'the model that it was trained on'}",
    )


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else sorted(value or [])


def _bin(folder: Path) -> bool:
    return (folder / "adapter_model.bin").is_file()
