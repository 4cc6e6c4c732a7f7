"""Settings of steps that score by a model, and the files of models and tokenizers on which scores depend."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.text.steps.base import Range, StepSettings

TOKENIZER: str | None = Field(
    default=None,
    description="Folder of a tokenizer, or `tokenizer:` for the one that the recipe trains; null: the recipe's own, "
    "where that is loaded from a folder.",
)
_OFF = Range()
_ABOUT = {"manifest.json", "stage.json", "README.md", "trainer_state.json"}  # they say when, not what


class PerplexityStep(StepSettings):
    """Drops records by how well a language model predicts them: with too many bits per byte they are noise, with too
    few boilerplate and repetition.

    Bits per byte are the negative log-likelihood over ln 2 and the UTF-8 bytes of the text, so models with other
    tokenizers can be compared; 2 to this power is the perplexity per byte. Messages of a conversation are read as
    paragraphs, without a template's markup.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"zh", "en", "mixed", "other", "shortest"})
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
        description="Records with fewer characters stay: a model needs some text to know what it reads, so short ones "
        "have many bits per byte, good or bad.",
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


ModelStep = PerplexityStep


def tokenizer_files(path: str | None) -> list[str]:
    """The files of a tokenizer's folder, in their order; the path itself where that is none."""
    if path is None:
        return []
    return [file for file in _top(Path(path)) if not file.endswith(".safetensors")] or [path]


def model_files(path: str) -> list[str]:
    """The files of a model, weights included. Raises UserError where there is none."""
    return _top(resolve_checkpoint(Path(path)))


def _top(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.is_file() and file.name not in _ABOUT)
    return sorted(str(file) for file in files if file.suffix in (".json", ".model", ".txt", ".jinja", ".safetensors"))
