"""What training on preferences may be told: one class of settings for each objective."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.train.settings import TrainSettings


class PreferenceTrainSettings(TrainSettings):
    """What the objectives on preferences share."""

    learning_rate: float = Field(default=5e-7, gt=0, description="The highest learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay; norms and biases are spared.")


class DPOTrainSettings(PreferenceTrainSettings):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)."""

    beta: float = Field(default=0.1, gt=0, description="How strongly the model is held to the reference.")
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        default="sigmoid",
        description="sigmoid: DPO; ipo: squared distance of the mean margin to 1/(2 beta); hinge: margin loss.",
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="Share of preferences taken to be wrong (conservative DPO); for sigmoid only.",
    )

    @model_validator(mode="after")
    def _smoothing(self) -> Self:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"label_smoothing is for loss: sigmoid, not {self.loss}: set it to 0.")
        return self


class KTOTrainSettings(PreferenceTrainSettings):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), on answers labelled good or bad."""

    beta: float = Field(default=0.1, gt=0, description="How strongly the model is held to the reference.")
    desirable_weight: float = Field(
        default=1.0,
        gt=0,
        description="Weight of good answers. The paper wants desirable_weight * good / (undesirable_weight * bad) "
        "between 1 and 4/3.",
    )
    undesirable_weight: float = Field(default=1.0, gt=0, description="Weight of bad answers.")


class ORPOTrainSettings(PreferenceTrainSettings):
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691): SFT and preference in one, without a
    reference.
    """

    learning_rate: float = Field(default=8e-6, gt=0, description="The highest learning rate; the paper's.")
    beta: float = Field(default=0.1, ge=0, description="Weight of the odds-ratio term (the paper's lambda).")


class SimPOTrainSettings(PreferenceTrainSettings):
    """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734): mean log-probabilities, no reference."""

    beta: float = Field(default=2.0, gt=0, description="Scale of the mean log-probabilities; the paper takes 2 to 10.")
    gamma: float = Field(
        default=1.0, ge=0, description="Margin by which the chosen answer's reward must win; the paper: 0.3 to 1.6."
    )


class RewardTrainSettings(PreferenceTrainSettings):
    """A reward model on pairs (Bradley and Terry 1952; Ouyang et al. 2022, arXiv 2203.02155)."""

    learning_rate: float = Field(default=1e-5, gt=0, description="The highest learning rate.")
    margin: str | None = Field(
        default=None,
        description="Column of the rows whose number the difference of rewards must exceed, or a difference of two: "
        "`score_chosen - score_rejected` (Touvron et al. 2023, arXiv 2307.09288). A row without it has margin 0.",
    )
    center: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the squared sum of a pair's rewards, which keeps rewards near 0 "
        "(Eisenstein et al. 2023, arXiv 2312.09244; there 0.01).",
    )


TRAIN_SETTINGS: dict[str, type[TrainSettings]] = {
    "pretrain": TrainSettings,
    "sft": TrainSettings,
    "reward": RewardTrainSettings,
    "dpo": DPOTrainSettings,
    "kto": KTOTrainSettings,
    "orpo": ORPOTrainSettings,
    "simpo": SimPOTrainSettings,
}
"""By stage."""
