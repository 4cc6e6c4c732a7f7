"""The shape of a decoder, what a family can express of it, and what it costs in parameters and operations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from danlu.config import Settings, check
from danlu.ledger.errors import UserError
from danlu.model.families.table import FAMILIES

ALIBI_POSITIONS = 65_280  # danlu.model.alibi says why


class RopeScaling(Settings):
    """How rotary positions are stretched beyond the length that a model was first trained at."""

    type: Literal["linear", "dynamic", "llama3", "yarn"] = Field(
        description="linear divides every frequency; llama3 and yarn divide the slow ones and keep the fast ones; "
        "dynamic changes nothing up to max_positions, and other tools stretch what is longer."
    )
    factor: float = Field(ge=1, description="How many times longer than the first training length.")
    original_max_positions: int | None = Field(
        default=None, gt=0, description="llama3, yarn: the length of the first training, in tokens."
    )
    low_freq_factor: float | None = Field(
        default=None, gt=0, description="llama3: wavelengths above original / this are divided by the factor (1.0)."
    )
    high_freq_factor: float | None = Field(
        default=None, gt=0, description="llama3: wavelengths below original / this stay as they are (4.0)."
    )
    beta_fast: float | None = Field(
        default=None, gt=0, description="yarn: turns above which a frequency stays as it is (32)."
    )
    beta_slow: float | None = Field(
        default=None, gt=0, description="yarn: turns below which it is divided by the factor (1)."
    )
    attention_factor: float | None = Field(
        default=None, gt=0, description="yarn: factor on cosines and sines (null: 0.1 ln(factor) + 1)."
    )

    @model_validator(mode="after")
    def _fits_its_type(self) -> RopeScaling:
        known = {
            "linear": set[str](),
            "dynamic": set[str](),
            "llama3": {"original_max_positions", "low_freq_factor", "high_freq_factor"},
            "yarn": {"original_max_positions", "beta_fast", "beta_slow", "attention_factor"},
        }[self.type]
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        foreign = sorted(given - known - {"type", "factor"})
        if foreign:
            raise ValueError(f"{self.type} scaling has no {', '.join(foreign)}: remove it or choose another type.")
        if known and self.original_max_positions is None:
            raise ValueError(f"{self.type} scaling needs original_max_positions, the length of the first training.")
        if self.type == "llama3" and (self.high_freq_factor or 4.0) <= (self.low_freq_factor or 1.0):
            raise ValueError("high_freq_factor must be greater than low_freq_factor.")
        if self.type == "yarn" and (self.beta_fast or 32.0) <= (self.beta_slow or 1.0):
            raise ValueError("beta_fast must be greater than beta_slow.")
        return self


class ModelSettings(Settings):
    """A decoder's shape, or a folder to take shape and weights from.

    Without kv_heads, qkv_bias and qk_norm they follow from heads and the family.
    """

    from_folder: Path | None = Field(
        default=None, alias="from", description="A Hugging Face folder or a checkpoint; then no other key may be given."
    )
    family: Literal["qwen2", "qwen3", "llama", "mistral", "internlm2", "baichuan"] = Field(
        default="qwen2", description="The Hugging Face form in which checkpoints are written."
    )
    vocab_size: int = Field(
        default=151_936,
        gt=0,
        description="Rows of the embedding: the tokenizer's size or more; that size where the recipe trains one.",
    )
    hidden_size: int = Field(default=512, gt=0, description="Width of the residual stream.")
    layers: int = Field(default=8, gt=0, description="Number of decoder blocks.")
    heads: int = Field(default=8, gt=0, description="Query heads.")
    kv_heads: int = Field(default=8, gt=0, description="Key and value heads; must divide heads (default: heads).")
    head_dim: int | None = Field(default=None, gt=0, description="Size of a head (null: hidden_size / heads).")
    mlp_size: int = Field(default=1_408, gt=0, description="Width of the gated MLP.")
    activation: Literal["silu", "gelu"] = Field(default="silu", description="Gate: silu makes SwiGLU, gelu GeGLU.")
    norm_eps: float = Field(default=1e-6, gt=0, description="Added to the mean square in RMSNorm.")
    positions: Literal["rope", "alibi"] = Field(
        default="rope",
        description="rope turns queries and keys; alibi lowers scores with distance, by a slope of each head "
        "(baichuan only; Hugging Face has no class for it, so folders bring one of ours).",
    )
    rope_theta: float = Field(default=10_000.0, gt=0, description="Base of the rotary position frequencies.")
    rope_scaling: RopeScaling | None = Field(default=None, description="Stretching of rotary positions.")
    max_positions: int = Field(
        default=32_768, gt=0, description="The longest sequence that the model is meant for, in tokens."
    )
    qkv_bias: bool = Field(
        default=True, description="Biases on q, k and v; fixed by the family (default: as it has them)."
    )
    qk_norm: bool = Field(default=False, description="RMSNorm on query and key heads; fixed by the family likewise.")
    sliding_window: int | None = Field(
        default=None, gt=0, description="A token sees this many tokens, itself included (null: all before it)."
    )
    tie_embeddings: bool = Field(default=True, description="The head uses the embedding's weight.")
    head: Literal["tokens", "reward"] = Field(
        default="tokens",
        description="What is said of a hidden state: the next token; or one number, as the stage `reward` trains it.",
    )
    init_std: float = Field(default=0.02, gt=0, description="Standard deviation of random initial weights.")

    @model_validator(mode="before")
    @classmethod
    def _follow_family(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        folder = given.get("from", given.get("from_folder"))
        shape = sorted(key for key in given if key not in ("from", "from_folder"))
        if folder is not None:
            if shape:
                raise ValueError(f"`from` brings the whole shape: remove {', '.join(shape)}, or remove `from`.")
            return given
        family = FAMILIES.get(given.get("family", "qwen2"))
        filled = {"kv_heads": given["heads"]} if "heads" in given else {}
        if family is not None:
            filled |= {"qkv_bias": family.qkv_bias, "qk_norm": family.qk_norm}
            filled |= {} if family.ties else {"tie_embeddings": False}
        return filled | given

    @model_validator(mode="after")
    def _holds_together(self) -> ModelSettings:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads}).")
        if self.head_dim is None and self.hidden_size % self.heads:
            raise ValueError(
                f"heads ({self.heads}) must divide hidden_size ({self.hidden_size}): change one, or give head_dim."
            )
        if self.head_size % 2 and self.positions == "rope":
            raise ValueError(f"a head of {self.head_size} cannot be rotated: head_dim must be even.")
        scaling = self.rope_scaling
        if scaling and self.positions == "alibi":
            raise ValueError("ALiBi positions are not stretched: remove rope_scaling, or set positions: rope.")
        if self.head == "reward" and self.tie_embeddings:
            raise ValueError("a reward model has no head over tokens to tie: set tie_embeddings to false.")
        if self.head == "reward" and self.positions == "alibi":
            raise ValueError("Hugging Face has no class for a reward model with ALiBi: set positions: rope.")
        if self.positions == "alibi" and self.max_positions > ALIBI_POSITIONS:
            raise ValueError(f"ALiBi distances are exact up to {ALIBI_POSITIONS:,} tokens: lower max_positions.")
        if scaling and scaling.original_max_positions and scaling.original_max_positions > self.max_positions:
            raise ValueError(
                f"rope_scaling.original_max_positions ({scaling.original_max_positions}) is beyond max_positions "
                f"({self.max_positions}): raise max_positions to the stretched length."
            )
        return self

    @model_validator(mode="after")
    def _can_be_exported(self) -> ModelSettings:
        family = FAMILIES[self.family]
        for key in ("qkv_bias", "qk_norm"):
            needed, given = getattr(family, key), getattr(self, key)
            if needed != given:
                fitting = ", ".join(
                    name for name, other in FAMILIES.items() if getattr(other, key) == given and not other.read_as
                )
                raise ValueError(
                    f"{family.name} has {key}: {str(needed).lower()} and its Hugging Face form cannot say otherwise: "
                    f"remove {key}, or choose a family that fits ({fitting})."
                )
        if self.head_size * self.heads != self.hidden_size and not family.head_dim:
            raise ValueError(
                f"{family.name} heads have hidden_size / heads = {self.hidden_size // self.heads} dimensions: "
                f"remove head_dim, or choose qwen3, llama or mistral."
            )
        if self.hidden_size % self.heads and family.divides:
            raise ValueError(f"{family.name} needs heads ({self.heads}) to divide hidden_size ({self.hidden_size}).")
        if self.sliding_window is not None and family.window == "none":
            raise ValueError(
                f"{family.name} has no sliding window: remove sliding_window, or choose mistral, qwen2 or qwen3."
            )
        return self

    @model_validator(mode="after")
    def _positions_can_be_exported(self) -> ModelSettings:
        family, scaling = FAMILIES[self.family], self.rope_scaling
        if self.positions == "alibi" and not family.alibi:
            raise ValueError(f"{family.name} has rotary positions: set positions: rope, or choose family: baichuan.")
        if scaling and scaling.type not in family.scalings:
            known = " or ".join(family.scalings) or "no scaling"
            raise ValueError(f"{family.name} knows {known} and not {scaling.type}: change rope_scaling, or the family.")
        if self.rope_theta != 10_000 and not family.theta:
            raise ValueError(f"{family.name} has rope_theta 10000 and its form cannot say otherwise: remove it.")
        if self.kv_heads != self.heads and not family.groups:
            raise ValueError(f"{family.name} has as many key-value heads as heads: remove kv_heads.")
        if self.tie_embeddings and not family.ties:
            raise ValueError(f"{family.name} has a head of its own: remove tie_embeddings, or set it to false.")
        return self

    @property
    def head_size(self) -> int:
        """Size of one head: `head_dim`, or hidden_size / heads."""
        return self.head_dim or self.hidden_size // self.heads

    @property
    def longest(self) -> int:
        """The longest sequence that positions are meant for, in tokens: published configs with linear or yarn scaling
        often state the length before stretching.
        """
        scaling = self.rope_scaling
        if scaling is None or scaling.type not in ("linear", "yarn"):
            return self.max_positions
        return max(self.max_positions, int((scaling.original_max_positions or self.max_positions) * scaling.factor))


def block_parameters(settings: ModelSettings) -> int:
    """Parameters of the layers' projections."""
    attention = 2 * settings.hidden_size * settings.head_size * (settings.heads + settings.kv_heads)
    return settings.layers * (attention + 3 * settings.hidden_size * settings.mlp_size)


def matmul_parameters(settings: ModelSettings) -> int:
    """Parameters that take part in matrix products: all projections and the head (once, tied or not)."""
    outputs = settings.vocab_size if settings.head == "tokens" else 1
    return block_parameters(settings) + outputs * settings.hidden_size


def parameters(settings: ModelSettings) -> int:
    """The exact number of parameters; a tied head counts once."""
    norms = 2 * settings.hidden_size + (2 * settings.head_size if settings.qk_norm else 0)
    biases = settings.head_size * (settings.heads + 2 * settings.kv_heads) if settings.qkv_bias else 0
    embedding = (
        0 if settings.tie_embeddings and settings.head == "tokens" else settings.vocab_size * settings.hidden_size
    )
    return matmul_parameters(settings) + settings.layers * (norms + biases) + embedding + settings.hidden_size


def training_flops(settings: ModelSettings, documents: Iterable[int]) -> float:
    """Floating-point operations of one forward and backward pass over documents of these lengths, in tokens.

    6 for each token and `matmul_parameters`, and 6·L·(heads · head size)·l for each token of a causal document of
    length l (Chowdhery et al. 2022, appendix B, halved because attention is causal). A document in a window of w
    attends to w·l - w²/2 pairs in place of l²/2. With `[T]` this is the usual causal convention: divide by T.
    """
    tokens, pairs = 0, 0.0
    for length in documents:
        window = min(settings.sliding_window or length, length)
        tokens += length
        pairs += window * length - window**2 / 2
    attention = 12.0 * settings.layers * settings.heads * settings.head_size * pairs
    return 6.0 * matmul_parameters(settings) * tokens + attention


def in_family(settings: ModelSettings, family: str) -> ModelSettings:
    """The same shape, to be written in the form of another family. Raises UserError where that form cannot say it."""
    return check(ModelSettings, {**settings.model_dump(exclude={"from_folder"}), "family": family}, {(): "--family"})


def require_rows(settings: ModelSettings, tokenizer_size: int) -> None:
    """Raises UserError when the tokenizer knows more tokens than the embedding has rows."""
    if tokenizer_size > settings.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer_size} tokens and the embedding {settings.vocab_size} rows",
            where="model.vocab_size",
            do=f"set model.vocab_size to {-(-tokenizer_size // 64) * 64} or more, or take the model's own tokenizer",
        )
