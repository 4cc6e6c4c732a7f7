"""What is measured, on how much of it, and how answers are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.config import Settings

ChoiceName = Literal[
    "ceval",
    "cmmlu",
    "mmlu",
    "hellaswag",
    "arc_easy",
    "arc_challenge",
    "piqa",
    "openbookqa",
    "commonsenseqa",
]
PROMPTS = ["李白是谁?", "绿豆糕", "who are you?", "tell me a story"]


class EvaluateSettings(Settings):
    """What every model of a run is measured on. What is left empty is not measured."""

    base: bool = Field(
        default=False,
        description="Measure the model of `model.from` too, under the name `base`: what training changed.",
    )
    held_out: dict[str, Path] = Field(
        default={},
        description="Bits per byte and perplexity on these folders of packed text, each under a name of your choice: "
        "`documents: pack/pretrain/held_out`.",
    )
    questions: Path | None = Field(
        default=None,
        description="Exact match and repetition on the rows of this .jsonl: question, answer (text or list of accepted "
        "texts), kind, language.",
    )
    references: Path | None = Field(
        default=None,
        description="BLEU and ROUGE on the rows of this .jsonl, in the form of `questions`, with long answers.",
    )
    prompts: list[str] = Field(default=PROMPTS, description="Prompts that every model answers greedily, side by side.")
    held_out_prompts: int = Field(
        default=0,
        ge=0,
        description="Besides `prompts` the openings of so many held-out conversations, an even share of each source; "
        "beside the models' answers stands the one that the data have.",
    )
    multiple_choice: list[ChoiceName] = Field(
        default=[], description="Multiple-choice sets, by log-likelihood of the choices."
    )
    choice_files: Path = Field(
        default=Path("eval"),
        description="Folder of the multiple-choice files; a relative path begins at the data root.",
    )
    shots: int = Field(
        default=5, ge=0, le=5, description="Solved examples before each question, where a set has a dev part."
    )
    limit: int | None = Field(
        default=None, ge=1, description="At most this many questions of each subject or file; null: all of them."
    )
    max_documents: int | None = Field(
        default=None,
        ge=1,
        description="At most this many documents of each source for bits per byte; null: all of them.",
    )
    window: int | None = Field(
        default=None,
        ge=16,
        description="Longest text that is scored or asked in one piece: set it to the length that the models were "
        "trained at, where their config allows more; null: what the config allows.",
    )
    raw: list[str] = Field(
        default=["pretrain"],
        description="Models that continue plain text: asked as `Question: …`, without the chat template. Others are "
        "asked through it.",
    )
    sampled: bool = Field(
        default=False,
        description="Ask `questions` a second time, sampling (temperature 1, a fixed seed for each), and "
        "measure repetition on these answers alone: greedy answers hide a habit that comes now and then.",
    )
    max_tokens: int = Field(default=64, ge=1, description="Longest answer to a question, in tokens.")
    prompt_tokens: int = Field(
        default=200, ge=1, description="Longest answer to one of `prompts` or `references`, in tokens."
    )
    batch: int = Field(default=32, ge=1, description="Sequences computed together.")

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.multiple_choice)) < len(self.multiple_choice):
            raise ValueError("multiple_choice names a set twice; name each once.")
        return self
