"""Qwen3 (dense): RMSNorm on each query and key head, a head size of its own, no biases."""

from __future__ import annotations

from danlu.model.families.family import Family

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    qkv_bias=False,
    qk_norm=True,
    head_dim=True,
    divides=False,
    window="switched",
    defaults={
        "head_dim": 128,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    fixed={"attention_bias": False},
)
