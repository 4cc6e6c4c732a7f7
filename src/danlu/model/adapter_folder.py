"""Adapters on disk, in PEFT's form: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file, read_json
from danlu.model.adapt import AdapterShape, known_targets, modules_on_disk, packed_in, slots, trained
from danlu.model.adapter_targets import Targets, layer_of, matching
from danlu.model.adapters import LoRA, Pair
from danlu.model.families.table import FAMILIES
from danlu.model.mark import marks_of
from danlu.model.projection import Projection
from danlu.model.reward_head import reward_decoder
from danlu.model.stored import opened, some
from danlu.model.tensors import write_tensors

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder

CONFIG, WEIGHTS, _PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."
_SCORE = _PREFIX + "score.weight"
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


@dataclass(frozen=True)
class Base:
    """The folder whose weights an adapter belongs to, and marks of them: the one that is written down, and those that
    earlier adapters may carry; none where an adapter has no mark, such as PEFT's own.
    """

    folder: str
    marks: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> Base:
        return cls(str(folder.resolve()), marks_of(folder))

    @property
    def mark(self) -> str:
        return self.marks[0] if self.marks else ""


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
    targets: Targets
    score: Tensor | None = None
    """Of a reward model, its head [1, D]."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter and not a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


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
    """An adapter's shape and tensors, of its safetensors, or without any of a `.bin` that holds tensors alone.

    Raises UserError for a folder that is no adapter, one of another kind than LoRA, settings that change what is
    computed, tensors that belong to no pair or are others than the settings say, and files that are damaged.
    """
    config = _read_config(folder)
    path = next((folder / name for name in (WEIGHTS, _PICKLED) if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"no {WEIGHTS} here", where=str(folder), do="copy it from where the adapter was trained")
    with opened(path) as file:
        tensors, metadata = dict(file), file.metadata
    score = tensors.pop(_SCORE, None)
    if (score is None) != (not config.get("modules_to_save")):
        raise _unlike("modules_to_save and what is saved do not agree", path)
    targets = Targets.of(config)
    shape = AdapterShape(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout") or 0.0,
        targets=(targets.targets,) if isinstance(targets.targets, str) else targets.targets,
        rank_stabilised=bool(config.get("use_rslora")),
        magnitudes=bool(config.get("use_dora")),
        over="nf4" if metadata.get("over") == "nf4" else "full",
    )
    modules = {}
    for name in [name for name in tensors if name.endswith(_A)]:
        module = name.removesuffix(_A).removeprefix(_PREFIX)
        modules[module] = _module(module, tensors, config, shape, path)
    if tensors or not modules:
        strange = ", ".join(sorted(tensors)[:3]) or "no LoRA pair"
        raise UserError(f"tensors that are not LoRA's on projections: {strange}", where=str(path), do=_MERGE_THERE)
    unnamed = [module for module in modules if module not in targets]
    if unnamed:
        raise _unlike(f"target_modules of {CONFIG} does not name {some(unnamed)}, which has tensors", path)
    base = Base(config.get("base_model_name_or_path") or "", tuple(filter(None, [metadata.get("base")])))
    return StoredAdapter(folder, shape, base, modules, targets, score)


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
    if base and stored.base.marks and not set(base.marks) & set(stored.base.marks):
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
        layer, covers = layer_of(path), names.get(path.rpartition(".")[2])
        place = places.get((layer, covers[0])) if layer is not None and covers else None
        if layer is None or covers is None or place is None:
            raise _other_base(stored, f"it has {path}, and the base no such module")
        name, slot = place
        wanted = (sum(slot.inside[part] for part in covers), slot.in_features)
        if (module.b.shape[0], module.a.shape[1]) != wanted:
            got = f"{module.b.shape[0]} × {module.a.shape[1]}"
            raise _other_base(stored, f"{path} is {got} and the base's {wanted[0]} × {wanted[1]}")
        found.setdefault((layer, name), []).append(_pair(module, path, covers, slot))
    _require_whole(
        decoder, stored, {(layer, part) for (layer, _), own in found.items() for p in own for part in p.covers}
    )
    return {place: LoRA(pairs, stored.shape.dropout) for place, pairs in found.items()}


def _require_whole(decoder: Decoder, stored: StoredAdapter, covered: Set[tuple[int, str]]) -> None:
    """Raises UserError where the settings name a module that none of what is `covered`, (layer, weight), belongs to."""
    missing = [
        path
        for layer in range(len(decoder.blocks))
        for path, covers in modules_on_disk(decoder, layer).items()
        if path in stored.targets and not {(layer, part) for part in covers} <= covered
    ]
    if missing:
        raise _unlike(f"no tensors for {some(missing)}, which target_modules of {CONFIG} names", stored.folder)


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


def _module(
    name: str, tensors: dict[str, Tensor], config: Mapping[str, Any], shape: AdapterShape, path: Path
) -> Module:
    """Takes the tensors of one module. Raises UserError where they are not what the settings say."""
    key = _PREFIX + name
    a, b, magnitude = tensors.pop(key + _A), tensors.pop(key + _B, None), tensors.pop(key + _MAGNITUDE, None)
    if b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise _unlike(f"{name}{_A} has no fitting lora_B", path)
    rank = matching(config.get("rank_pattern") or {}, name, shape.rank)
    if a.shape[0] != rank:
        raise _unlike(f"{name} has rank {a.shape[0]}, and r of {CONFIG} is {rank}", path)
    if (magnitude is not None) != shape.magnitudes:
        has = "has" if magnitude is not None else "lacks"
        raise _unlike(f"{name} {has} DoRA's magnitudes, and use_dora of {CONFIG} is {shape.magnitudes}", path)
    integers = [tensor.dtype for tensor in (a, b, magnitude) if tensor is not None and not tensor.is_floating_point()]
    if integers:
        kind = str(integers[0]).removeprefix("torch.")
        raise UserError(f"{name} is stored as integers ({kind})", where=str(path), do="save the adapter in float32")
    alpha = matching(config.get("alpha_pattern") or {}, name, shape.alpha)
    return Module(a, b, magnitude, shape.scale(a.shape[0], alpha))


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
_OVER_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
"""Of PEFT's starts, those that leave the base's weights alone; under the others it is another base that is trained."""


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"no {CONFIG} here", where=str(folder), do="name an adapter's folder")
    config = read_json(path, "copy the file again from its origin")
    missing = [key for key in ("r", "lora_alpha", "target_modules") if config.get(key) in (None, "", [])]
    strange = {key: config[key] for key, fine in _NEUTRAL.items() if config.get(key, fine[0]) not in fine}
    if strange:
        said = ", ".join(f"{key}: {value}" for key, value in strange.items())
        raise UserError(f"an adapter with {said} is not supported", where=str(path), do=_MERGE_THERE)
    if missing:
        raise UserError(f"{', '.join(missing)} missing", where=str(path), do="copy the file again")
    if (start := config.get("init_lora_weights", True)) not in _OVER_THE_BASE:
        raise UserError(
            f"what this adapter started from was taken out of its base (init_lora_weights: {start}), and it is stored "
            "without that",
            where=str(path),
            do="save it where it was trained with path_initial_model_for_weight_conversion, or " + _MERGE_THERE,
        )
    if not isinstance(config["r"], int) or config["r"] < 1 or not isinstance(config["lora_alpha"], int | float):
        said = f"r {config['r']!r} and lora_alpha {config['lora_alpha']!r}"
        raise UserError(f"{said} are no rank and no number", where=str(path), do="copy the file again")
    try:
        Targets.of(config)
        for key in (*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})):
            re.compile(key)
    except (re.error, TypeError) as error:
        what = f"target_modules or a pattern cannot be read ({error})"
        raise UserError(what, where=str(path), do="copy the file again") from None
    return config


def _other_base(stored: StoredAdapter, why: str) -> UserError:
    return UserError(
        f"this adapter is for another base: {why}",
        where=str(stored.folder),
        do=f"open it over {stored.base.folder or 'the model that it was trained on'}",
    )


def _unlike(what: str, where: Path) -> UserError:
    do = f"copy {CONFIG} and {WEIGHTS} together from where the adapter was trained"
    return UserError(what, where=str(where), do=do)
