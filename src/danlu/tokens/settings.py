"""Settings of the tokens room; nothing heavy is imported here."""

from __future__ import annotations

from pydantic import Field, model_validator

from danlu.config import Settings


class TokenizerTrainSettings(Settings):
    """How a byte-level BPE tokenizer is trained."""

    vocab_size: int = Field(
        default=32_000, ge=300, description="Entries to learn, the 256 bytes and all special tokens among them."
    )
    reserved: int = Field(
        default=16, ge=0, description="Special tokens <|reserved_0|>, <|reserved_1|>, ... kept free for later use."
    )
    multiple_of: int = Field(
        default=1, ge=1, description="Round the vocabulary up to a multiple of this with further reserved tokens."
    )
    max_bytes: int = Field(
        default=64_000_000, ge=1, description="UTF-8 bytes of text to learn from; what comes after them is not read."
    )
    min_frequency: int = Field(default=2, ge=1, description="A pair seen less often than this is never merged.")


class TokenizerSettings(Settings):
    """The tokenizer of a run, and how conversations are written with it."""

    path: str | None = Field(default=None, description="Folder of a Hugging Face tokenizer to load.")
    train: TokenizerTrainSettings | None = Field(
        default=None, description="Train a tokenizer on the run's text instead of loading one."
    )
    template: str | None = Field(
        default=None,
        description="Named chat template (chatml, llama3) that takes the place of the tokenizer's own; "
        "null keeps the tokenizer's own.",
    )
    system: str = Field(
        default="default",
        description="System prompt of conversations that bring none: `none` writes none, even where the template "
        "would insert one; `default` leaves it to the template; any other text is used as it stands.",
    )
    terminator: str | None = Field(
        default=None, description="Token that ends a document in pretraining; null takes the tokenizer's end token."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> TokenizerSettings:
        if (self.path is None) == (self.train is None):
            raise ValueError("The tokenizer needs exactly one of `path` (load a folder) and `train` (learn one).")
        return self


class LossLimits(Settings):
    """What training refuses to start with; each is checked on the whole token set."""

    min_loss_share: float = Field(
        default=0.0, ge=0, le=1, description="Least share of all tokens that must be in the loss."
    )
    max_rows_without_loss: float = Field(
        default=0.0, ge=0, le=1, description="Greatest share of rows with no token in the loss."
    )
    max_rows_dropped: float = Field(
        default=0.5, ge=0, le=1, description="Greatest share of rows that cutting to the length may drop."
    )
    max_turns_lost: float = Field(
        default=0.5, ge=0, le=1, description="Greatest share of trained turns that cutting to the length may lose."
    )
    max_stop_untrained: float = Field(
        default=0.5, ge=0, le=1, description="Greatest share of trained answers whose stop token is not in the loss."
    )
    max_markup_in_content: float = Field(
        default=0.0, ge=0, le=1, description="Greatest share of rows with a special token inside their content."
    )
