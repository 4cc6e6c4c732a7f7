"""Qwen2 and Qwen2.5: biases on q, k and v, none elsewhere; a sliding window that is nearly always switched off."""

from __future__ import annotations

from danlu.model.families.family import Family

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    qkv_bias=True,
    qk_norm=False,
    head_dim=False,
    divides=True,
    window="switched",
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
)
