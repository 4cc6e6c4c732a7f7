"""Of a model that is not known: the family that it is nearest to, and what in its config.json differs from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from danlu.model.families.family import Family

_BOOKKEEPING = {
    "architectures", "model_type", "auto_map", "torch_dtype", "dtype", "transformers_version", "use_cache",
    "attention_dropout", "hidden_dropout", "attn_dropout", "resid_pdrop", "embd_pdrop", "pretraining_tp",
    "bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class", "model_max_length", "gradient_checkpointing",
    "rope_theta", "rope_scaling", "rope_parameters", "layer_types", "max_window_layers", "z_loss_weight",
    "keep_in_fp32", "use_flash_attn", "attn_implementation", "tokenizer_file", "is_decoder", "is_encoder_decoder",
    "return_dict", "id2label", "label2id",
}  # fmt: skip
_SWITCHES = {"sliding_window", "use_sliding_window"}


def nearest(
    config: Mapping[str, Any],
    families: Sequence[Family],
    needed: Sequence[str],
    known: set[str],
    foreign_to_all: Sequence[str],
) -> tuple[Family, list[str]]:
    """The family with the fewest differences, by name where several have as few, and the differences as phrases.

    `needed` are the keys that every family's config.json has, `known` those that danlu reads beside them, and
    `foreign_to_all` differences from every family, which are told besides.
    """
    name = str(config.get("model_type") or "").lower()

    def distance(found: tuple[Family, list[str]]) -> tuple[int, float]:
        return len(found[1]), -SequenceMatcher(None, name, found[0].name.lower()).ratio()

    family, differences = min(
        ((family, _differences(config, family, needed, known)) for family in families), key=distance
    )
    return family, [*foreign_to_all, *differences]


def _differences(config: Mapping[str, Any], family: Family, needed: Sequence[str], known: set[str]) -> list[str]:
    absent = [f"no {key}" for key in needed if config.get(key) is None]
    other = [
        f"{key}: {config[key]!r} where {family.name} has {value!r}"
        for key, value in family.fixed.items()
        if config.get(key) not in (None, value)
    ]
    if config.get("hidden_act", "silu") not in ("silu", "gelu"):
        other.append(f"hidden_act: {config['hidden_act']!r} where {family.name} has 'silu'")
    understood = {*needed, *known, *family.fixed, *family.defaults, *_BOOKKEEPING, *_SWITCHES, "hidden_act"}
    foreign = [
        f"{key}: {_short(value)} means nothing to {family.name}"
        for key, value in config.items()
        if key not in understood and not key.startswith("_") and value not in (None, False, 0, {}, [])
    ]
    return [*absent, *other, *foreign]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
