"""InternLM2 and 2.5: llama's arithmetic; q, k and v packed by key-value head, and names of its own."""

from __future__ import annotations

from danlu.model.families.family import Family, Packed

_LAYER = "model.layers.{}."

INTERNLM2 = Family(
    name="internlm2",
    architecture="InternLM2ForCausalLM",
    qkv_bias=False,
    qk_norm=False,
    head_dim=False,
    divides=True,
    window="none",
    defaults={"max_position_embeddings": 2048},
    fixed={"bias": False},
    weights=(
        ("embed.weight", "model.tok_embeddings.weight"),
        ("norm.weight", "model.norm.weight"),
        ("head.weight", "output.weight"),
        ("layers.{}.attention_norm.weight", _LAYER + "attention_norm.weight"),
        ("layers.{}.q.weight", _LAYER + "attention.wq.weight"),
        ("layers.{}.k.weight", _LAYER + "attention.wk.weight"),
        ("layers.{}.v.weight", _LAYER + "attention.wv.weight"),
        ("layers.{}.o.weight", _LAYER + "attention.wo.weight"),
        ("layers.{}.mlp_norm.weight", _LAYER + "ffn_norm.weight"),
        ("layers.{}.gate.weight", _LAYER + "feed_forward.w1.weight"),
        ("layers.{}.up.weight", _LAYER + "feed_forward.w3.weight"),
        ("layers.{}.down.weight", _LAYER + "feed_forward.w2.weight"),
    ),
    packed=Packed(_LAYER + "attention.wqkv.weight", grouped=True),
    ties=False,
    scalings=("linear", "dynamic"),
    read_as="llama",
)
