"""Settings of steps that score by a model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from danlu.text.steps.base import LANGUAGES, Kind, Range, StepSettings
from danlu.text.steps.folders import model_files
from danlu.text.steps.statistics import RangesStep

_OFF = Range()


class PerplexityStep(StepSettings):
    """Drops records by how well a language model predicts them: with too many bits per byte they are noise, with too
    few boilerplate and repetition.

    Bits per byte are the negative log-likelihood over ln 2 and the UTF-8 bytes of the text, so models with other
    tokenizers can be compared; 2 to this power is the perplexity per byte. Messages of a conversation are read as
    paragraphs, without a template's markup.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"zh", "en", "mixed", "other"})
    folders: ClassVar[tuple[str, ...]] = ("model",)
    scores_by: ClassVar[tuple[str, ...]] = ("window",)
    by_language: ClassVar[bool] = True

    op: Literal["perplexity"] = "perplexity"
    model: str = Field(
        description="Folder of a decoder in Hugging Face form, a checkpoint or a run of danlu's, or STAGE: (such as "
        "pretrain:) for what that stage of the recipe trained; then cleaning comes after it."
    )
    zh: Range = Field(
        default=_OFF, description="Bits per byte of Chinese records. A character has 3 bytes, so they have fewer."
    )
    en: Range = Field(default=_OFF, description="Bits per byte of English records.")
    mixed: Range = Field(default=_OFF, description="Bits per byte of records in both.")
    other: Range = Field(default=_OFF, description="Bits per byte of records in other languages.")
    shortest: int = Field(
        default=50,
        ge=1,
        description="Records with fewer characters are not measured and stay: a model needs some text to know what it "
        "reads, so short ones have many bits per byte, good or bad.",
    )
    characters: int = Field(
        default=4000,
        ge=1,
        description="Characters of a record that are read, from its start: time grows with them, and what a text is "
        "shows early.",
    )
    window: int | None = Field(
        default=512,
        ge=2,
        description="Tokens that the model sees at once; longer texts are read in windows that overlap by half. Null: "
        "as many as the model can.",
    )

    def files(self) -> list[str]:
        return model_files(self.model)

    def bounds_in(self, language: str) -> dict[str, Range]:
        return {"bits_per_byte": getattr(self, language)} if language in LANGUAGES else {}

    def bounds(self) -> dict[str, Range]:
        return {}


class RewardStep(RangesStep):
    """Drops conversations and preference pairs by what a reward model says of their answers.

    A reward is a number without a unit: only differences between answers mean much. An answer that the model's chat
    template refuses has none, and stays.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"reward", "margin"})
    folders: ClassVar[tuple[str, ...]] = ("model",)

    op: Literal["reward"] = "reward"
    kinds: list[Kind] = Field(
        default=["conversation", "preference"], description="The kinds of record that this step looks at."
    )
    model: str = Field(
        description="Folder of a reward model, or `reward:` for the one that the recipe trains; then cleaning comes "
        "after it."
    )
    reward: Range = Field(
        default=_OFF, description="Reward of a conversation up to its last answer; of a pair that of its chosen answer."
    )
    margin: Range = Field(
        default=_OFF,
        description="Of a pair: by how much the chosen answer's reward is above the rejected one's. {min: 0} drops "
        "pairs that the model would order the other way round.",
    )

    def files(self) -> list[str]:
        return model_files(self.model)


ModelStep = PerplexityStep | RewardStep
