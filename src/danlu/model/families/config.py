"""config.json both ways: from Hugging Face's keys to ModelSettings, and back so that transformers 4 and 5 read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.model.families.family import Family
from danlu.model.families.table import FAMILIES
from danlu.model.settings import ModelSettings, RopeScaling

_SHAPE = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_size",
}
_OPTIONS = {
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_positions",
    "tie_word_embeddings": "tie_embeddings",
    "initializer_range": "init_std",
}
_DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "initializer_range": 0.02}
_FIXED = {"quantization_config": None, "partial_rotary_factor": 1.0}
_SCALING = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_positions",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}


def decoder_settings(folder: Path) -> ModelSettings:
    """The shape that a folder's config.json states. Code that a folder brings is never run.

    Raises UserError for a missing or broken file, an unsupported `model_type`, keys that contradict each other, and
    arithmetic that the decoder does not do.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            "no config.json here", where=str(folder), do="name a Hugging Face model folder or a checkpoint"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"not JSON: {error}", where=str(path), do="copy the file again from its origin") from None
    if not isinstance(config, dict):
        raise UserError("a model's config is a JSON object", where=str(path), do="copy the file again from its origin")
    return _settings(config, path)


def write_config(settings: ModelSettings) -> dict[str, Any]:
    """The config.json of a decoder, without token ids and dtype."""
    family = FAMILIES[settings.family]
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.name}
    config |= {key: getattr(settings, name) for key, name in (_SHAPE | _OPTIONS).items() if key != "head_dim"}
    config |= family.fixed | {"hidden_act": settings.activation, "attention_dropout": 0.0, "use_cache": True}
    if family.head_dim:
        config["head_dim"] = settings.head_size
    if family.window != "none":
        config["sliding_window"] = settings.sliding_window
    if family.window == "switched":
        config["use_sliding_window"] = settings.sliding_window is not None
        config["max_window_layers"] = settings.layers if settings.sliding_window is None else 0
    scaling = _written_scaling(settings.rope_scaling)
    config["rope_theta"], config["rope_scaling"] = settings.rope_theta, scaling  # transformers 4
    config["rope_parameters"] = {"rope_theta": settings.rope_theta, **(scaling or {"rope_type": "default"})}
    return config


def _settings(config: dict[str, Any], path: Path) -> ModelSettings:
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        own_code = "; code in the folder (auto_map) is never run" if "auto_map" in config else ""
        raise UserError(
            f"model_type {config.get('model_type')!r} is not supported{own_code}",
            where=str(path),
            do=f"use a model of one of these: {', '.join(FAMILIES)}",
        )
    missing = sorted(key for key in _SHAPE if config.get(key) is None)
    if missing:
        raise UserError(f"{', '.join(missing)} missing", where=str(path), do="copy the file again from its origin")
    config = _DEFAULTS | family.defaults | config
    for key, value in (_FIXED | family.fixed).items():
        if config.get(key, value) not in (value, None):
            raise UserError(
                f"{key}: {config[key]!r} is arithmetic that this decoder does not do (it does {value!r})",
                where=str(path),
                do="use a model without it",
            )
    shape = {name: config[key] for key, name in (_SHAPE | _OPTIONS).items() if config.get(key) is not None}
    theta, scaling = _rope(config, path)
    shape |= {"family": family.name, "activation": config["hidden_act"], "rope_theta": theta, "rope_scaling": scaling}
    shape["sliding_window"] = _window(family, config, path)
    return check(ModelSettings, shape, {(): str(path)})


def _window(family: Family, config: dict[str, Any], path: Path) -> int | None:
    """The window of all layers. Raises UserError where layers differ."""
    window: int | None = config.get("sliding_window")
    if family.window == "none" or (family.window == "switched" and not config.get("use_sliding_window")):
        return None
    if family.window == "always" or window is None:
        return window
    layers = config["num_hidden_layers"]
    sliding = [layer >= config["max_window_layers"] for layer in range(layers)]
    if config.get("layer_types"):
        sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    if any(sliding) and not all(sliding):
        raise UserError(
            f"{sum(sliding)} of {layers} layers attend within a sliding window and the others do not",
            where=str(path),
            do="use a model with one kind of attention, or switch use_sliding_window off",
        )
    return window if any(sliding) else None


def _rope(config: dict[str, Any], path: Path) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling, out of `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    new, old = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    theta = new.get("rope_theta") or config.get("rope_theta") or 10_000.0
    if new and config.get("rope_theta") not in (None, theta):
        raise UserError(
            f"rope_theta is {config['rope_theta']} and {theta} in rope_parameters",
            where=str(path),
            do="find out which one the model was trained with and write it in both places",
        )
    first, second = _read_scaling(new, config, path), _read_scaling(old, config, path)
    if new and old and first != second:
        raise UserError(
            "rope_scaling and rope_parameters say different things",
            where=str(path),
            do="find out which one the model was trained with and remove the other",
        )
    return theta, first or second


def _read_scaling(stated: dict[str, Any], config: dict[str, Any], path: Path) -> dict[str, Any] | None:
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind == "default":
        return None
    stated = {key: value for key, value in stated.items() if value is not None}
    given = {key: value for key, value in stated.items() if key in _SCALING}
    neutral = {"rope_type": kind, "type": kind, "rope_theta": stated.get("rope_theta"), "partial_rotary_factor": 1.0}
    foreign = sorted(key for key, value in stated.items() if key not in given and neutral.get(key) != value)
    if kind not in ("linear", "llama3", "yarn") or foreign:
        raise UserError(
            f"rotary scaling {kind!r}{' with ' + ', '.join(foreign) if foreign else ''} is not supported",
            where=str(path),
            do="use a model with linear, llama3 or yarn scaling",
        )
    if kind == "yarn":
        given.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return {"type": kind} | {_SCALING[key]: value for key, value in given.items()}


def _written_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    written = {key: value for key, name in _SCALING.items() if (value := getattr(scaling, name)) is not None}
    if scaling.type == "llama3":
        written = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} | written
    return {"rope_type": scaling.type} | written
