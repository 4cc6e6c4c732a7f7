"""Llama 1 to 3.2 (text), and the many models in that form: no biases, no window."""

from __future__ import annotations

from danlu.model.families.family import Family

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    qkv_bias=False,
    qk_norm=False,
    head_dim=True,
    divides=True,
    window="none",
    defaults={"max_position_embeddings": 2048},
    fixed={"attention_bias": False, "mlp_bias": False},
)
