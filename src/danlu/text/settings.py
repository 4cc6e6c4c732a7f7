"""Settings of where text comes from and how it is cleaned."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from danlu.config import Settings
from danlu.ledger.cluster import ClusterSettings, ExecutorName
from danlu.text.presets import PRESETS, PresetName, preset_steps
from danlu.text.steps.base import KINDS, LANGUAGES, Kind
from danlu.text.steps.basic import BasicStep, ExactDedupStep, NormaliseStep
from danlu.text.steps.classifier import ClassifierStep
from danlu.text.steps.dialogue import DialogueStep
from danlu.text.steps.duplicates import DuplicatesStep
from danlu.text.steps.markup import MarkupStep
from danlu.text.steps.models import ModelStep
from danlu.text.steps.passages import PassagesStep
from danlu.text.steps.privacy import PrivacyStep
from danlu.text.steps.statistics import StatisticsStep

DocumentUnit = Literal["file", "paragraph", "line"]
AdapterName = Literal[
    "auto", "danlu", "openai", "sharegpt", "firefly", "moss", "oasst", "message_pairs", "ranked_turns", "hh",
    "comparisons", "ranked_alpaca", "prompt_pairs", "labelled", "belle_turns", "alpaca", "dolly", "firefly_tasks",
    "questions", "text",
]  # fmt: skip


class SourceSettings(Settings):
    """Where rows come from, which of them are taken, and as what they are read."""

    path: str = Field(
        description="A file, a folder (read with all below it), a pattern such as sft/*.jsonl.zst, or STAGE:SUBFOLDER."
    )
    name: str | None = Field(
        default=None, description="What the source is called in reports and mixes; by default its path's last part."
    )
    adapter: AdapterName = Field(
        default="auto", description="The schema of the rows; auto chooses by the fields of each row."
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        description="How often its rows come in a mix, relative to its size: 2 is twice as often as 1.",
    )
    share: float | None = Field(
        default=None, gt=0, le=1, description="Its share of all tokens in training; null: by its size and `weight`."
    )
    max_epochs: float | None = Field(
        default=None,
        gt=0,
        description="Training sees it at most so many times in all; what is left goes to the other sources.",
    )
    limit: int | None = Field(
        default=None, ge=1, description="Take this many rows at most, the first that `where` lets through."
    )
    where: list[str] = Field(
        default=[],
        description="Conditions on columns of the raw row, which all must hold: 'quality_score >= 0.5', "
        "'langdetect == zh-cn', 'label.ability_en in math, coding'.",
    )
    include: list[str] = Field(
        default=[], description="Under a folder, read only files whose path matches one of these patterns."
    )
    exclude: list[str] = Field(
        default=[], description="Under a folder, leave out files whose path matches one of these patterns."
    )
    document: DocumentUnit = Field(
        default="file",
        description="What one document is in .txt and .md files: the file, a paragraph (blank lines between), a line.",
    )
    format: Literal["auto", "code"] = Field(
        default="auto",
        description="auto: each file by its ending. code: the folder is source code, and each file in it that a "
        "programming language knows by its ending is a document; what .gitignore names is left out.",
    )
    max_row_bytes: int = Field(
        default=8_000_000,
        ge=1,
        description="Longer lines, rows and documents are skipped, and counted with their places; a process takes "
        "some 30 to 70 times as much.",
    )
    on_bad_row: Literal["skip", "stop"] = Field(
        default="skip", description="skip: count rows that cannot be used and go on; stop: end at the first."
    )
    max_bad_share: float = Field(
        default=0.5, ge=0, le=1, description="With skip: end when more than this share of the rows cannot be used."
    )

    @model_validator(mode="after")
    def _share_or_weight(self) -> Self:
        if self.share is not None and self.weight != 1:
            raise ValueError("A source has a `share` of the tokens or a `weight` by its size. Remove one of them.")
        return self

    @model_validator(mode="after")
    def _code_in_whole_files(self) -> Self:
        if self.format == "code" and self.document != "file":
            raise ValueError("With `format: code` a file is one document: leave `document` out.")
        return self

    @model_validator(mode="after")
    def _conditions_parse(self) -> Self:
        from danlu.text.select import Condition

        for text in self.where:
            Condition.parse(text)
        return self


Step = Annotated[
    BasicStep
    | DuplicatesStep
    | MarkupStep
    | PassagesStep
    | StatisticsStep
    | ClassifierStep
    | PrivacyStep
    | DialogueStep
    | ModelStep,
    Field(discriminator="op"),
]


class CleanSource(SourceSettings):
    """A source, and what its rows are read as."""

    kind: Kind | None = Field(default=None, description="What the rows are read as; null: what the first row holds.")


class CleanSettings(Settings):
    """Which sources are cleaned, and by which steps."""

    sources: list[CleanSource] = Field(description="Where the text comes from.")
    preset: PresetName | None = Field(
        default=None,
        description="Writes `steps`, so those are not given beside it: zh, en, mixed for documents, dialogue for "
        "conversations. `danlu clean preset NAME` shows them.",
    )
    steps: list[Step] = Field(
        default=[NormaliseStep(), ExactDedupStep()],
        description="Steps in their order: {op: normalise}, {op: length, min: 50}, {op: language, keep: [zh, en]}, "
        "{op: exact_dedup}. By default {op: normalise} and {op: exact_dedup}.",
    )
    keep_scores: list[str] = Field(
        default=[],
        description="Measured values that go into each record's `meta`, so that `where`, mixing and a curriculum can "
        "use them: [perplexity, characters.alphanumeric]; a step alone means all that it measures. Their names there "
        "are STEP.VALUE, such as perplexity.bits_per_byte.",
    )
    workers: int = Field(default=0, ge=0, description="Processes; 0: one for each core.")
    executor: ExecutorName = Field(
        default="local",
        description="local: processes on this machine; slurm, ray: the same tasks on a cluster (pip install "
        '"danlu[cluster]").',
    )
    cluster: ClusterSettings | None = Field(default=None, description="What a task gets on a cluster.")
    task_bytes: int = Field(
        default=1 << 26, ge=1, description="Bytes of input that one task takes; memory grows with it."
    )

    @model_validator(mode="before")
    @classmethod
    def _steps_of_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") not in PRESETS:
            return given
        if "steps" in given:
            raise ValueError(
                f"`preset` and `steps` are both given. Remove one; `danlu clean preset {given['preset']}` prints the "
                "preset's steps, to be changed."
            )
        return {**given, "preset": None, "steps": preset_steps(given["preset"])}

    @model_validator(mode="after")
    def _cluster_is_used(self) -> Self:
        if self.executor == "local" and self.cluster is not None:
            raise ValueError("`cluster` has no effect with executor: local. Remove it, or set executor: slurm or ray.")
        if self.executor == "slurm" and (self.cluster is None or self.cluster.partition is None):
            raise ValueError("Slurm needs `cluster: {partition: …}` (sinfo lists them).")
        other = {"slurm": "address", "ray": "partition"}.get(self.executor)
        if other and self.cluster is not None and getattr(self.cluster, other) is not None:
            raise ValueError(f"`cluster.{other}` has no effect with executor: {self.executor}. Remove it.")
        return self

    @model_validator(mode="after")
    def _scores_of_steps(self) -> Self:
        called = {step.called for step in self.steps}
        for name in self.keep_scores:
            if name.partition(".")[0] not in called:
                raise ValueError(f"keep_scores: there is no step {name.partition('.')[0]!r} to measure {name!r}.")
        return self

    @model_validator(mode="after")
    def _once_for_a_record(self) -> Self:
        for kind, language in product(KINDS, LANGUAGES):
            called = [step.called for step in self.steps if kind in step.kinds and language in step.languages]
            if twice := {name for name in called if called.count(name) > 1}:
                raise ValueError(
                    f"The step {min(twice)} comes twice for {kind}s in {language}. Give each its own `kinds` or "
                    "`languages`, or one of them a `name`."
                )
        return self
