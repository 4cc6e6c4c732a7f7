"""Settings of the tokens room; nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from danlu.config import Settings
from danlu.ledger.errors import UserError
from danlu.text.settings import SourceSettings
from danlu.tokens.order_settings import CurriculumSettings

StageName = Literal["pretrain", "sft", "reward", "dpo", "kto", "orpo", "simpo"]
"""A training stage."""
Unit = Literal["window", "document", "conversation", "pair", "labelled"]
"""What a batch counts; a labelled example is one answer that was found good or bad."""
MOST_BYTES = (1 << 31) - 1
"""No pair of neighbours can be seen more often than there are bytes, and tokenizers counts pairs in 32 bits."""
LEAST = 300  # entries of a vocabulary


class TokenizerTrainSettings(Settings):
    """How a tokenizer is trained."""

    kind: Literal["byte_bpe", "sentencepiece"] = Field(
        default="byte_bpe",
        description="byte_bpe: merges of bytes inside words, as Qwen's (fits more text into a token); sentencepiece: "
        "merges of characters, bytes for rare ones, as Llama 2's (a model file for other tools, trains faster).",
    )
    sources: list[SourceSettings] = Field(
        default=[], description="Text to learn from; when left out, what pretraining reads."
    )
    vocab_size: int = Field(
        default=32_000, ge=LEAST, description="Entries to learn, the 256 bytes and all special tokens among them."
    )
    symbols: list[str] = Field(
        default=[], description="Texts that are always one token wherever they stand, such as <think>; not special."
    )
    reserved: int = Field(
        default=16, ge=0, description="Special tokens <|reserved_0|>, <|reserved_1|>, ... kept free for later use."
    )
    multiple_of: int = Field(
        default=1, ge=1, description="Round the vocabulary up to a multiple of this with further reserved tokens."
    )
    max_bytes: int = Field(
        default=32_000_000,
        ge=1,
        le=MOST_BYTES,
        description="UTF-8 bytes of text to learn from, an even share of every file; memory is about 35 times this "
        "(sentencepiece: 20), and beyond 2147483647 the counts of pairs could overflow.",
    )
    min_frequency: int = Field(
        default=2, ge=1, description="A pair seen less often than this is never merged (byte_bpe only)."
    )

    @model_validator(mode="after")
    def _has_effect(self) -> TokenizerTrainSettings:
        if self.kind == "sentencepiece" and "min_frequency" in self.model_fields_set:
            raise ValueError("SentencePiece knows no min_frequency. Remove it, or set kind: byte_bpe.")
        if empty := [symbol for symbol in self.symbols if not symbol.strip()]:
            raise ValueError(f"A symbol must have a visible character: {empty[0]!r} has none.")
        return self


class TokenizerSettings(Settings):
    """The tokenizer of a run, and how conversations are written with it."""

    path: str | None = Field(default=None, description="Folder of a Hugging Face tokenizer to load.")
    train: TokenizerTrainSettings | None = Field(
        default=None, description="Train a tokenizer on the run's text instead of loading one."
    )
    template: str | None = Field(
        default=None,
        description="Named chat template (chatml, llama3, llama2, alpaca, human, baichuan, baichuan2) that takes the "
        "place of the tokenizer's own; null keeps the tokenizer's own.",
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


class SystemPrompt(Settings):
    """A system prompt for a share of the conversations that bring none."""

    text: str = Field(min_length=1, description="The system prompt.")
    share: float = Field(
        default=1.0, gt=0, le=1, description="Share of the conversations let through by `where` that get it."
    )
    where: list[str] = Field(
        default=[],
        description="Conditions on columns of the row, which all must hold: 'category == code', 'lang == zh'.",
    )

    @model_validator(mode="after")
    def _conditions_parse(self) -> SystemPrompt:
        from danlu.text.select import Condition

        for condition in self.where:
            Condition.parse(condition)
        return self


class DataSettings(Settings):
    """Which records a stage trains on, and how they become rows of tokens."""

    sources: list[SourceSettings] = Field(min_length=1, description="Where the records come from, and their weights.")
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="A source of n tokens gets weight · n^(1/temperature) of the tokens: 1 by size, more evens out.",
    )
    curriculum: CurriculumSettings | None = Field(
        default=None, description="Easy before hard inside each source; null: evenly mixed."
    )
    length: int = Field(default=1024, ge=8, description="Tokens in a row: the longest context that is trained.")
    pack: Literal["concat", "best_fit", "none"] = Field(
        default="best_fit",
        description="`best_fit` puts whole documents side by side into rows; `concat` (documents only) cuts their "
        "running text into windows of `length`; `none` gives each its own padded row.",
    )
    isolate: bool = Field(
        default=True,
        description="Documents in a row never see each other; false makes each row one document for attention, "
        "positions and loss.",
    )
    turns: Literal["all", "first", "last"] = Field(
        default="all", description="Which answers of a conversation are in the loss."
    )
    loss_on: list[Literal["assistant", "user", "system", "tool"]] = Field(
        default=["assistant"],
        min_length=1,
        description="Whose content is in the loss. Some old recipes train the questions too (assistant, user).",
    )
    own_system: Literal["keep", "drop"] = Field(
        default="keep",
        description="System prompts that conversations bring are kept; or dropped, as if they had brought none.",
    )
    system: list[SystemPrompt] = Field(
        default=[],
        description="System prompts of conversations that bring none, as a list of {text, share, where}, taken in "
        "order; what is left is up to `tokenizer.system`.",
    )
    max_source_length: int | None = Field(
        default=None, ge=1, description="Most tokens of a question's (or tool result's) content; its beginning stays."
    )
    max_target_length: int | None = Field(
        default=None,
        ge=1,
        description="Most tokens of an answer's content; its beginning stays, and its stop token is not trained then.",
    )
    overlong: Literal["drop", "head", "tail"] = Field(
        default="drop",
        description="A conversation that does not fit even without its oldest turns is dropped, or that end of its "
        "prompt is kept.",
    )
    oldest_turns: Literal["leave_out", "windows"] = Field(
        default="leave_out",
        description="Turns that do not fit beside the newest of a conversation are left out; or make windows of their "
        "own, so that every answer is trained (SFT).",
    )
    answer_budget: int | None = Field(
        default=None,
        ge=1,
        description="Tokens kept free for the answer when a prompt is cut (a prompt of at most `length` minus this); "
        "null is half of `length`.",
    )
    held_out: float = Field(
        default=0.01, ge=0, lt=1, description="Share of records kept out of training, chosen by what they say."
    )
    workers: int = Field(default=0, ge=0, description="Processes that encode; 0: one for each core.")
    task_bytes: int = Field(
        default=1 << 26, ge=1, description="Bytes of input that one encoding task takes; memory grows with it."
    )
    shard_tokens: int = Field(
        default=1 << 25, ge=1, description="About the most tokens in a shard; training maps two shards of a source."
    )

    @model_validator(mode="after")
    def _budget_fits(self) -> DataSettings:
        if self.answer_budget is not None and self.answer_budget >= self.length:
            raise ValueError(
                f"answer_budget ({self.answer_budget}) leaves no room for a prompt in rows of {self.length} tokens. "
                "Lower it or raise `length`."
            )
        return self

    @model_validator(mode="after")
    def _prompts_are_a_whole(self) -> DataSettings:
        shares: dict[tuple[str, ...], float] = {}
        for prompt in self.system:
            key = tuple(sorted(prompt.where))
            shares[key] = shares.get(key, 0.0) + prompt.share
        for where, share in shares.items():
            if share > 1 + 1e-9:
                what = f" where {', '.join(where)}" if where else ""
                raise ValueError(f"The shares of the system prompts{what} sum to {share:g}. Let them sum to at most 1.")
        return self

    @model_validator(mode="after")
    def _shares_are_a_whole(self) -> DataSettings:
        shares = [source.share for source in self.sources if source.share is not None]
        whole = sum(shares)
        if whole > 1 + 1e-9 or (len(shares) == len(self.sources) and whole < 1 - 1e-9):
            raise ValueError(
                f"The sources' shares sum to {whole:g}. Let them sum to 1, or leave one out: it takes what is left."
            )
        if shares and len(shares) < len(self.sources) and whole > 1 - 1e-9:
            raise ValueError("The sources' shares sum to 1 and leave nothing to those without. Lower them.")
        return self

    @model_validator(mode="after")
    def _curriculum_of_documents(self) -> DataSettings:
        if self.curriculum and self.pack == "concat":
            raise ValueError(
                "A curriculum orders documents, and a window of `pack: concat` holds many. "
                "Set `pack: best_fit` or `none`."
            )
        return self

    @model_validator(mode="after")
    def _windows_are_one_document(self) -> DataSettings:
        if not self.isolate and self.pack == "best_fit":
            raise ValueError("`isolate: false` goes with `pack: concat` or `pack: none`. Change one of the two.")
        return self

    def unit(self, stage: StageName) -> Unit:
        """What the stage's batch size counts. Raises UserError for what the stage cannot have."""
        for name, usual in (("loss_on", ["assistant"]), ("oldest_turns", "leave_out")):
            if stage != "sft" and getattr(self, name) != usual:
                raise UserError(f"`{name}` has no effect on {stage}", do="remove it, or put it into `sft.data`")
        turns = self.system or self.own_system == "drop" or self.max_source_length or self.max_target_length
        if stage == "pretrain" and turns:
            raise UserError(
                "documents have no turns: `system`, `own_system`, `max_source_length` and `max_target_length` have no "
                "effect",
                do="remove them",
            )
        if stage == "pretrain":
            return "window" if self.pack == "concat" else "document"
        if self.pack == "concat":
            raise UserError(
                f"`pack: concat` would cut through the conversations of {stage}", do="set `pack: best_fit` or `none`"
            )
        return {"sft": "conversation", "kto": "labelled"}.get(stage, "pair")  # type: ignore[return-value]
