"""Mistral (dense): llama's form with a sliding window on every layer."""

from __future__ import annotations

from danlu.model.families.family import Family

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    qkv_bias=False,
    qk_norm=False,
    head_dim=True,
    divides=False,
    window="always",
    defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
)
