"""What a family is: the facts by which a decoder is written to, and read from, its Hugging Face form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

LLAMA_WEIGHTS: tuple[tuple[str, str], ...] = (
    ("embed.weight", "model.embed_tokens.weight"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
    ("reward.score.weight", "score.weight"),
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
class Packed:
    """q, k and v of a layer in one matrix on disk."""

    name: str  # `{}` is the layer
    grouped: bool
    """For each key-value head its queries, its key, its value (InternLM2); else all of q, all of k, all of v."""


@dataclass(frozen=True)
class Family:
    """One form of Hugging Face's, as facts that are used in both directions.

    `fixed` holds config keys whose other values mean arithmetic that the decoder does not do; `defaults` what
    transformers assumes where config.json leaves a key out.
    """

    name: str  # Hugging Face's model_type
    architecture: str  # the class that opens it
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
    packed: Packed | None = None
    groups: bool = True  # key-value heads can be fewer than query heads
    ties: bool = True  # the head can be tied to the embedding
    theta: bool = True  # config.json states the rotary base; else it is 10,000
    scalings: tuple[str, ...] = ("linear", "dynamic", "llama3", "yarn")  # of rotary positions, that its form can say
    alibi: bool = False  # positions can be ALiBi
    read_as: str | None = None
    """Where Hugging Face has no class of this name: the family with the same arithmetic for which it has one, and in
    whose form a folder that was read is written again."""

    def on_disk(self, part: str) -> str:
        """The name on disk of the part `layers.3.q.weight`, that of its own matrix where the form packs it with others.

        Raises KeyError for a part that the family lacks.
        """
        pattern, layer = _split(part)
        return dict(self.weights)[pattern].format(layer)

    def holder(self, part: str) -> tuple[str, str | None]:
        """The tensor of a file that the part is in, and, where others are in it too, which it is: q, k or v."""
        slot = part.split(".")[-2]
        if self.packed and slot in ("q", "k", "v"):
            return self.packed.name.format(_split(part)[1]), slot
        return self.on_disk(part), None


def renamed(weights: tuple[tuple[str, str], ...], names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """A table of weights with other names on disk for some parts."""
    return tuple((part, names.get(part, name)) for part, name in weights)


def _split(name: str) -> tuple[str, str]:
    """`layers.3.q.weight` as (`layers.{}.q.weight`, `3`); other names as they are."""
    head, _, rest = name.partition(".")
    if head != "layers":
        return name, ""
    layer, _, rest = rest.partition(".")
    return f"layers.{{}}.{rest}", layer
