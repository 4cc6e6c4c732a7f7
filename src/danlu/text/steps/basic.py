"""Steps that every corpus needs: one way to write, length, language, no record twice."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from danlu.text.steps.base import Language, Range, StepSettings


class NormaliseStep(StepSettings):
    """Evens out how text is written; what it says stays."""

    op: Literal["normalise"] = "normalise"
    nfc: bool = Field(default=True, description="Unicode NFC: one code point for a letter with its accent.")
    whitespace: bool = Field(
        default=True,
        description="Cut blanks off line ends, blank lines off both ends, and more than two blank lines to two.",
    )


class LengthStep(StepSettings):
    """Drops records with too few or too many characters."""

    op: Literal["length"] = "length"
    min: int = Field(default=1, ge=0, description="Fewest characters, all messages of a conversation together.")
    max: int | None = Field(default=None, ge=1, description="Most characters; null for no limit.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min ({self.min}) is above max ({self.max}), so nothing would be kept. Swap them.")
        return self

    def bounds(self) -> dict[str, Range]:
        return {"characters": Range(min=self.min, max=self.max)}


class LanguageStep(StepSettings):
    """Drops records in other languages. Its shares also say what `languages` of the other steps means."""

    decides: ClassVar[frozenset[str]] = frozenset({"keep", "zh_share", "mixed_share", "confidence"})

    op: Literal["language"] = "language"
    keep: list[Language | Literal["none"]] = Field(
        default=["zh", "en", "mixed"], description="Languages that stay; none: text without letters, such as sums."
    )
    zh_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Chinese from this share of Han characters among Han characters and Latin words on.",
    )
    mixed_share: float = Field(default=0.1, ge=0, le=0.5, description="Between this share and zh_share: mixed.")
    confidence: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="A language other than English is believed from this confidence of the detector on.",
    )


class ExactDedupStep(StepSettings):
    """Keeps the first of records that say the same, over all sources of a kind, in the order of the sources."""

    op: Literal["exact_dedup"] = "exact_dedup"


BasicStep = NormaliseStep | LengthStep | LanguageStep | ExactDedupStep
