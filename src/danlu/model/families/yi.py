"""Yi as first published (`model_type: Yi`): llama with other names for norms. Later folders say llama themselves."""

from __future__ import annotations

from danlu.model.families.family import LLAMA_WEIGHTS, Family, renamed

YI = Family(
    name="Yi",
    architecture="YiForCausalLM",
    qkv_bias=False,
    qk_norm=False,
    head_dim=False,
    divides=True,
    window="none",
    defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 5_000_000.0},
    fixed={"attention_bias": False, "mlp_bias": False},
    weights=renamed(
        LLAMA_WEIGHTS,
        {
            "layers.{}.attention_norm.weight": "model.layers.{}.ln1.weight",
            "layers.{}.mlp_norm.weight": "model.layers.{}.ln2.weight",
        },
    ),
    scalings=("linear", "dynamic"),
    read_as="llama",
)
