"""Settings of where text comes from and how it is cleaned."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.config import Settings

DocumentUnit = Literal["file", "paragraph", "line"]
Kind = Literal["document", "conversation", "preference"]
KINDS: tuple[Kind, ...] = ("document", "conversation", "preference")
AdapterName = Literal[
    "auto", "danlu", "openai", "sharegpt", "firefly", "moss", "oasst", "message_pairs", "ranked_turns", "hh",
    "comparisons", "ranked_alpaca", "prompt_pairs", "belle_turns", "alpaca", "dolly", "firefly_tasks", "questions",
    "text",
]  # fmt: skip


class SourceSettings(Settings):
    """Where rows come from, which of them are taken, and as what they are read."""

    path: str = Field(
        description="A file, a folder (read with all below it), a pattern such as sft/*.jsonl.zst, or STAGE:SUBFOLDER."
    )
    name: str | None = Field(
        None, description="What the source is called in reports and mixes; by default its path's last part."
    )
    adapter: AdapterName = Field("auto", description="The schema of the rows; auto chooses by the fields of each row.")
    weight: float = Field(
        1.0,
        gt=0,
        description="How often its rows come in a mix, relative to its size: 2 is twice as often as 1.",
    )
    limit: int | None = Field(
        None, ge=1, description="Take this many rows at most, the first that `where` lets through."
    )
    where: list[str] = Field(
        [],
        description="Conditions on columns of the raw row, which all must hold: 'quality_score >= 0.5', "
        "'langdetect == zh-cn', 'label.ability_en in math, coding'.",
    )
    include: list[str] = Field(
        [], description="Under a folder, read only files whose path matches one of these patterns."
    )
    exclude: list[str] = Field(
        [], description="Under a folder, leave out files whose path matches one of these patterns."
    )
    document: DocumentUnit = Field(
        "file",
        description="What one document is in .txt and .md files: the file, a paragraph (blank lines between), a line.",
    )
    on_bad_row: Literal["skip", "stop"] = Field(
        "skip", description="skip: count rows that cannot be used and go on; stop: end at the first."
    )
    max_bad_share: float = Field(
        0.1, ge=0, le=1, description="With skip: end when more than this share of the rows cannot be used."
    )

    @model_validator(mode="after")
    def _conditions_parse(self) -> Self:
        from danlu.text.select import Condition

        for text in self.where:
            Condition.parse(text)
        return self
