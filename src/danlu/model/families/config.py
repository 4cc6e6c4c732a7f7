"""config.json both ways: from Hugging Face's keys to ModelSettings, and back so that transformers 4 and 5 read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.files import read_json
from danlu.model.families.baichuan import has_alibi, has_norm_head, own_keys
from danlu.model.families.family import Family
from danlu.model.families.nearest import nearest
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
_MOST_DIFFERENCES = 6
_CLASSIFIES = "ForSequenceClassification"
_FIXED = {"partial_rotary_factor": 1.0}
_SCALING = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_positions",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}


class Stated(NamedTuple):
    """What a config.json says: the decoder's shape, the family whose names its weights have, and how its head is kept.

    `shape.family` is the form in which the decoder is written again; where Hugging Face has no class for that of the
    folder but has one for the same arithmetic (llama for Yi, InternLM2, Baichuan-7B), it is the latter's.
    """

    shape: ModelSettings
    family: Family
    norm_head: bool  # each row of the head is to be divided by its length


def decoder_settings(folder: Path) -> ModelSettings:
    """The shape that a folder's config.json states; see `read_config`."""
    return read_config(folder).shape


def read_config(folder: Path) -> Stated:
    """What a folder's config.json states. Code that a folder brings is never run.

    Raises UserError for a missing or broken file, an unsupported `model_type`, keys that contradict each other, and
    arithmetic that the decoder does not do.
    """
    return stated(read_config_file(folder), folder / "config.json")


def require_tokenizer(folder: Path, tokenizer_size: int, origin: str) -> None:
    """Raises UserError where the tokenizer of `origin` is that of another model: where it has more tokens than the
    embedding rows, or is too small for the tokens with which config.json ends or begins a text.
    """
    config = read_config_file(folder)
    rows = stated(config, folder / "config.json").shape.vocab_size
    if tokenizer_size > rows:
        raise UserError(
            f"the tokenizer has {tokenizer_size} tokens and the embedding {rows} rows: it is another model's",
            where=origin,
            do=f"put the model's own tokenizer into {folder}",
        )
    for key in ("bos_token_id", "eos_token_id"):
        ids = config.get(key)
        for id in ids if isinstance(ids, list) else [ids]:
            if isinstance(id, int) and id >= tokenizer_size:
                raise UserError(
                    f"{key} of the model is {id} and the tokenizer has {tokenizer_size} tokens: it is another model's",
                    where=origin,
                    do=f"put the model's own tokenizer into {folder}",
                )


def read_config_file(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("no config.json here", where=str(folder), do="name a Hugging Face model folder or a checkpoint")
    return read_json(path, "copy the file again from its origin")


def write_config(settings: ModelSettings) -> dict[str, Any]:
    """The config.json of a decoder, without token ids and dtype."""
    family = FAMILIES[settings.family]
    config: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.name}
    config |= {key: getattr(settings, name) for key, name in (_SHAPE | _OPTIONS).items() if key != "head_dim"}
    config |= family.fixed | {"hidden_act": settings.activation, "attention_dropout": 0.0, "use_cache": True}
    if not family.ties:
        config["tie_word_embeddings"] = False
    if settings.head == "reward":
        config |= _reward_keys(family)
    if not family.groups:
        del config["num_key_value_heads"]
    if family.alibi:
        del config["max_position_embeddings"]
        return config | own_keys(settings.positions == "alibi", settings.max_positions)
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


def stated(config: dict[str, Any], path: Path) -> Stated:
    """What a config.json's content states; `path` is where it came from, for errors. Raises as `read_config` does."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise _unknown(config, path)
    missing = sorted(key for key in _SHAPE if config.get(key) is None)
    if missing:
        raise UserError(f"{', '.join(missing)} missing", where=str(path), do="copy the file again from its origin")
    config = _DEFAULTS | family.defaults | config
    if quantised := _quantised(config):
        raise UserError(
            f"{quantised}, which danlu does not read",
            where=str(path),
            do="name the model that it was made from; `method: qlora` keeps that in 4 bits while it is tuned",
        )
    for key, value in (_FIXED | family.fixed).items():
        if config.get(key, value) not in (value, None):
            raise UserError(
                f"{key}: {config[key]!r} is arithmetic that this decoder does not do (it does {value!r})",
                where=str(path),
                do="use a model without it",
            )
    shape = {name: config[key] for key, name in (_SHAPE | _OPTIONS).items() if config.get(key) is not None}
    theta, scaling = _rope(config, path)
    alibi = family.alibi and has_alibi(config)
    written = family.name if alibi or family.read_as is None else family.read_as
    shape |= {"family": written, "activation": config["hidden_act"], "rope_theta": theta, "rope_scaling": scaling}
    shape["sliding_window"] = _window(family, config, path)
    if _is_reward(config, path):
        shape |= {"head": "reward", "tie_embeddings": False}
    if alibi:
        longest = config.get("model_max_length") or config.get("max_position_embeddings") or 4096
        shape |= {"positions": "alibi", "max_positions": longest}
    return Stated(
        check(ModelSettings, shape, {(): str(path)}), family, norm_head=family.alibi and has_norm_head(config)
    )


def _reward_keys(family: Family) -> dict[str, Any]:
    """What makes transformers' AutoModelForSequenceClassification open the folder, with one output."""
    architecture = family.architecture.replace("ForCausalLM", _CLASSIFIES)
    return {"architectures": [architecture], "id2label": {"0": "reward"}, "label2id": {"reward": 0}}


def _is_reward(config: dict[str, Any], path: Path) -> bool:
    """Whether one number is said of a text. Raises UserError for a classifier of several outputs."""
    architecture = next(iter(config.get("architectures") or ()), "")
    outputs = len(config.get("id2label") or "12")  # transformers' default
    if architecture.endswith(_CLASSIFIES) and outputs != 1:
        raise UserError(
            f"a classifier with {outputs} outputs; a reward model has one",
            where=str(path),
            do="name a folder with one label in id2label",
        )
    return architecture.endswith(_CLASSIFIES)


def _unknown(config: dict[str, Any], path: Path) -> UserError:
    families = [family for family in FAMILIES.values() if family.read_as is None]
    known = {*_OPTIONS, *_FIXED, *_DEFAULTS, "quantization_config"}
    family, differences = nearest(config, families, list(_SHAPE), known, _foreign_to_all(config, path))
    said = "; ".join(differences[:_MOST_DIFFERENCES])
    more = f"; and {len(differences) - _MOST_DIFFERENCES} more" if len(differences) > _MOST_DIFFERENCES else ""
    own_code = "; code in the folder (auto_map) is never run" if "auto_map" in config else ""
    apart = f"differs from it in {said}{more}" if differences else "says nothing that differs from it but this name"
    return UserError(
        f"model_type {config.get('model_type')!r} is not supported; the nearest family is {family.name}, and "
        f"config.json {apart}{own_code}",
        where=str(path),
        do=f"use a model of one of these: {', '.join(FAMILIES)}",
    )


def _quantised(config: dict[str, Any]) -> str | None:
    """How the folder's weights are kept in few bits, as a phrase."""
    if not (how := config.get("quantization_config")):
        return None
    return f"quantization_config: weights quantised by {how.get('quant_method', 'a method without a name')}"


def _foreign_to_all(config: dict[str, Any], path: Path) -> list[str]:
    """What no family's config.json says, as phrases."""
    found = [quantised] if (quantised := _quantised(config)) else []
    found += [f"{key}: {config[key]!r}" for key, value in _FIXED.items() if config.get(key) not in (None, value)]
    try:
        _rope(_DEFAULTS | config, path)
    except UserError as refused:
        found.append(refused.what)
    kinds = sorted(set(config.get("layer_types") or ()))
    if kinds not in ([], ["full_attention"], ["sliding_attention"]):
        found.append(f"layer_types: {', '.join(kinds)}")
    return found


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
    stated = {key: value for key, value in stated.items() if value is not None}
    given = {key: value for key, value in stated.items() if key in _SCALING}
    if kind == "dynamic" and given.get("original_max_position_embeddings") == config["max_position_embeddings"]:
        del given["original_max_position_embeddings"]
    neutral = {"rope_type": kind, "type": kind, "rope_theta": stated.get("rope_theta"), "partial_rotary_factor": 1.0}
    foreign = sorted(key for key, value in stated.items() if key not in given and neutral.get(key) != value)
    if kind not in ("default", "linear", "dynamic", "llama3", "yarn") or foreign:
        raise UserError(
            f"rotary scaling {kind!r}{' with ' + ', '.join(foreign) if foreign else ''} is not supported",
            where=str(path),
            do="use a model with linear, dynamic, llama3 or yarn scaling",
        )
    if kind == "default":
        return None
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
