"""Baichuan and Baichuan 2: 7B with rotary positions, which is llama's arithmetic, and 13B with ALiBi, which no class of
Hugging Face's computes. Baichuan 2 divides each row of its head by its length (NormHead)."""

from __future__ import annotations

from typing import Any

from danlu.model.families.family import LLAMA_WEIGHTS, Family, Packed

BAICHUAN = Family(
    name="baichuan",
    architecture="BaiChuanForCausalLM",
    qkv_bias=False,
    qk_norm=False,
    head_dim=False,
    divides=True,
    window="none",
    weights=LLAMA_WEIGHTS,
    packed=Packed("model.layers.{}.self_attn.W_pack.weight", grouped=False),
    groups=False,
    ties=False,
    theta=False,
    scalings=(),
    alibi=True,
    read_as="llama",
)

SECOND_VOCABULARY = 125_696  # Baichuan 2's; nothing else in its config.json tells it from the first
OWN_CLASS = "modeling_danlu"


def has_alibi(config: dict[str, Any]) -> bool:
    """Whether a Baichuan config.json means ALiBi: the 13B ones state `model_max_length` alone."""
    stated = config.get("position_embedding")
    if stated is not None:
        return bool(stated == "alibi")
    published_13b = (config.get("hidden_size"), config.get("num_hidden_layers")) == (5120, 40)
    return published_13b or config.get("max_position_embeddings") is None


def has_norm_head(config: dict[str, Any]) -> bool:
    """Whether a Baichuan config.json means NormHead; more rows than Baichuan 2's are those of added tokens."""
    stated = config.get("norm_head")
    return bool(stated) if stated is not None else config.get("vocab_size", 0) >= SECOND_VOCABULARY


def own_keys(alibi: bool, longest: int) -> dict[str, Any]:
    """What Baichuan's form says in its own way; with ALiBi, the class that lies in one file beside the weights."""
    if not alibi:
        return {"position_embedding": "rope", "norm_head": False, "max_position_embeddings": longest}
    classes = {"AutoConfig": f"{OWN_CLASS}.DanluConfig", "AutoModelForCausalLM": f"{OWN_CLASS}.DanluForCausalLM"}
    return {
        "architectures": ["DanluForCausalLM"],
        "auto_map": classes,
        "position_embedding": "alibi",
        "norm_head": False,
        "model_max_length": longest,
    }
