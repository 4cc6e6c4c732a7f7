"""What a family is: the facts by which a decoder is written to, and read from, its Hugging Face form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

LLAMA_WEIGHTS: tuple[tuple[str, str], ...] = (
    ("embed.weight", "model.embed_tokens.weight"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
    ("layers.{}.attention_norm.weight", "model.layers.{}.input_layernorm.weight"),
    ("layers.{}.q.weight", "model.layers.{}.self_attn.q_proj.weight"),
    ("layers.{}.q.bias", "model.layers.{}.self_attn.q_proj.bias"),
    ("layers.{}.k.weight", "model.layers.{}.self_attn.k_proj.weight"),
    ("layers.{}.k.bias", "model.layers.{}.self_attn.k_proj.bias"),
    ("layers.{}.v.weight", "model.layers.{}.self_attn.v_proj.weight"),
    ("layers.{}.v.bias", "model.layers.{}.self_attn.v_proj.bias"),
    ("layers.{}.q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    ("layers.{}.k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    ("layers.{}.o.weight", "model.layers.{}.self_attn.o_proj.weight"),
    ("layers.{}.mlp_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    ("layers.{}.gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
    ("layers.{}.up.weight", "model.layers.{}.mlp.up_proj.weight"),
    ("layers.{}.down.weight", "model.layers.{}.mlp.down_proj.weight"),
)
"""Part names (left, `{}` is the layer) and the names that llama and its heirs give them on disk."""


@dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face's, as facts that are used in both directions.

    `fixed` holds config keys whose other values mean arithmetic that the decoder does not do; `defaults` what
    transformers assumes where config.json leaves a key out.
    """

    name: str  # Hugging Face's model_type
    architecture: str  # the class that AutoModelForCausalLM opens
    qkv_bias: bool  # biases on q, k and v
    qk_norm: bool  # RMSNorm on each query and key head
    head_dim: bool  # config.json can give a head size that is not hidden_size / heads
    divides: bool  # heads must divide hidden_size even where head_dim is given
    window: Literal[
        "none", "always", "switched"
    ]  # sliding_window: unknown, read as it stands, or by use_sliding_window
    defaults: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    weights: tuple[tuple[str, str], ...] = LLAMA_WEIGHTS

    def on_disk(self, part: str) -> str:
        """The name on disk of the part `layers.3.q.weight`. Raises KeyError for a part that the family lacks."""
        pattern, layer = _split(part)
        return dict(self.weights)[pattern].format(layer)


def _split(name: str) -> tuple[str, str]:
    """`layers.3.q.weight` as (`layers.{}.q.weight`, `3`); other names as they are."""
    head, _, rest = name.partition(".")
    if head != "layers":
        return name, ""
    layer, _, rest = rest.partition(".")
    return f"layers.{{}}.{rest}", layer
