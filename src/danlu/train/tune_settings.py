"""What of a model is trained: all of it, its last layers, or an adapter on a frozen base."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from danlu.config import Settings
from danlu.model.settings import ModelSettings, block_parameters, parameters


class Full(Settings):
    """Every weight is trained."""

    method: Literal["full"] = "full"


class Layers(Settings):
    """The last layers and the final norm are trained; all before them, embedding and head stay as they are."""

    method: Literal["layers"] = "layers"
    last: int = Field(default=2, gt=0, description="How many layers, counted from the end.")


class LoRA(Settings):
    """A low-rank adapter on the projections of a frozen base (Hu et al. 2021, arXiv 2106.09685)."""

    method: Literal["lora"] = "lora"
    rank: int = Field(default=8, gt=0, description="Rank of the adapter's matrices.")
    alpha: float | None = Field(
        default=None, gt=0, description="The adapter is multiplied by alpha / rank; null: twice the rank."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the adapter's inputs that a step leaves out.")
    targets: list[str] = Field(
        default=["all-linear"],
        min_length=1,
        description="Modules by their names on disk, such as [q_proj, v_proj], [W_pack] or [wqkv]; all-linear: every "
        "projection of the layers.",
    )
    rslora: bool = Field(
        default=False, description="Multiply by alpha / √rank, for high ranks (rsLoRA, arXiv 2312.03732)."
    )
    dora: bool = Field(default=False, description="Train each row's length apart (DoRA, arXiv 2402.09353).")
    start: Literal["zero", "pissa"] = Field(
        default="zero",
        description="zero: B is 0; pissa: from the greatest singular values of each weight (arXiv 2404.02948).",
    )
    b_rate: float = Field(
        default=1.0, gt=0, description="Learning rate of B over that of A (LoRA+, arXiv 2402.12354, advises 16)."
    )

    @model_validator(mode="after")
    def _one_way(self) -> LoRA:
        if self.start == "pissa" and self.dora:
            raise ValueError("start: pissa with dora: true is not one of the published methods: choose one of them.")
        return self


class QLoRA(LoRA):
    """An adapter over a base in 4 bits: NF4, its scales in 8 bits (Dettmers et al. 2023, arXiv 2305.14314)."""

    method: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    rank: int = Field(default=64, gt=0, description="Rank of the adapter's matrices.")


class AdapterForm(NamedTuple):
    """What an adapter must share with the settings by which it is trained on."""

    rank: int
    scale: float
    """What its product is multiplied by."""
    dora: bool

    def __str__(self) -> str:
        return f"rank {self.rank}, scale {self.scale:.3g}{', DoRA' if self.dora else ''}"

    def fits(self, other: AdapterForm) -> bool:
        """Whether the one can be trained on as the other."""
        return self.rank == other.rank and self.dora == other.dora and math.isclose(self.scale, other.scale)


def asked_form(how: LoRA) -> AdapterForm:
    """Of the adapter that is asked for."""
    rank = how.rank**0.5 if how.rslora else how.rank
    return AdapterForm(how.rank, (how.alpha or 2.0 * how.rank) / rank, how.dora)


def saved_form(how: LoRA) -> AdapterForm:
    """Of the adapter that training so saves: with PiSSA twice the rank, so that its base stays as it was."""
    form = asked_form(how)
    return form._replace(rank=2 * form.rank) if how.start == "pissa" else form


def trained_parameters(how: Full | Layers | LoRA, shape: ModelSettings) -> int:
    """How many parameters are trained; of an adapter at most, if its targets are fewer than all projections."""
    if isinstance(how, Layers):
        return how.last * block_parameters(shape) // shape.layers
    if not isinstance(how, LoRA):
        return parameters(shape)
    own, shared, mlp = shape.heads * shape.head_size, shape.kv_heads * shape.head_size, shape.mlp_size
    width = shape.hidden_size
    sides = 2 * (width + own) + 2 * (width + shared) + 3 * (width + mlp)  # q and o, k and v, gate and up and down
    rows = 2 * width + own + 2 * shared + 2 * mlp if how.dora else 0
    return shape.layers * (how.rank * sides * (2 if how.start == "pissa" else 1) + rows)


def trained_share(how: Full | Layers | LoRA, shape: ModelSettings) -> float:
    """The share of the weights whose gradients are computed; that of an adapter's own is small and left aside."""
    if isinstance(how, LoRA):
        return 0.0
    return trained_parameters(how, shape) / parameters(shape)


Tune = Annotated[Full | Layers | LoRA | QLoRA, Field(discriminator="method")]
