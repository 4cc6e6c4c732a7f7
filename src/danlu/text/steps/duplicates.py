"""Settings of the steps that compare records: near-duplicates, lines that stand in many, what is in a test set."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from danlu.config import Settings
from danlu.text.steps.base import Kind, Range, Role, StepSettings


class NearDedupStep(StepSettings):
    """Keeps the first of records that share most of their n-grams, over all sources of a kind.

    Words are counted without case and punctuation; a Chinese character is a word. A record goes only when the Jaccard
    similarity of its n-grams with those of a record that stays was computed and reaches the threshold.
    """

    gathers: ClassVar[frozenset[str]] = frozenset({"threshold", "recall"})

    op: Literal["near_dedup"] = "near_dedup"
    threshold: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of two sets of n-grams from which on they are near-duplicates. At 0.8 and "
        "n-grams of 5, one changed word in 45 is still a duplicate.",
    )
    ngram: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Words (or Chinese characters) in a row that are compared; records with fewer are left alone.",
    )
    permutations: int = Field(
        default=128,
        ge=16,
        le=1024,
        description="Values in a MinHash signature, 2 bytes each. More of them find pairs at the threshold with fewer "
        "comparisons in vain. Powers of two are fastest.",
    )
    recall: float = Field(
        default=0.98,
        gt=0,
        lt=1,
        description="The probability with which a pair just at the threshold is found; more similar pairs are found "
        "more surely. Higher means more comparisons.",
    )


class LineDedupStep(StepSettings):
    """Removes lines that stand in many records, such as menus and notices. Code between fences is left alone.

    In conversations, where set phrases are how people talk, it looks only when `kinds` says so: never at system prompts
    and tool results, nor at a message that is one line alone, such as a question that many ask; and no message is left
    empty.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"left"})
    gathers: ClassVar[frozenset[str]] = frozenset({"max", "keep"})

    op: Literal["line_dedup"] = "line_dedup"
    kinds: list[Kind] = Field(default=["document"], description="The kinds of record that this step looks at.")
    roles: list[Role] = Field(
        default=["user", "assistant"], description="Whose turns are looked at, of the kinds that have turns."
    )
    unit: Literal["line", "sentence"] = Field(default="line", description="What is compared.")
    max: int = Field(default=6, ge=1, description="A line may stand in this many records; in more, it is removed.")
    keep: Literal["none", "first"] = Field(
        default="none",
        description="Where a line stays that stands in too many records. none: nowhere, right for boilerplate; first: "
        "in the first record, right for repeated content, with `max: 1`.",
    )
    shortest: int = Field(
        default=30,
        ge=1,
        description="Bytes of UTF-8 from which on a line counts: 30 Latin letters or 10 Chinese characters. Shorter "
        "lines (`Yes.`, headings) are often the same by nature.",
    )
    left: Range = Field(
        default=Range(min=0.3), description="Share of a record's text that is left; other records are dropped whole."
    )


class EvaluationSet(Settings):
    """Test data that must not be learned."""

    path: str = Field(description="A file, or a folder (read with all below it): jsonl, json, parquet, csv, txt, md.")
    name: str | None = Field(default=None, description="What it is called in reports; by default each file's name.")
    fields: list[str] = Field(
        default=[], description="Columns that make an item, with all strings inside them; empty: all columns."
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class DecontaminateStep(StepSettings):
    """Finds records in which test items stand, and drops them or cuts those passages out.

    Words are counted without case and punctuation; a Chinese character is a word. Of a test item every string of at
    least `ngram` words is looked for; where it has none, its longest string as a whole. Lengths are in bytes of UTF-8,
    in which English and Chinese are about as dense.
    """

    decides: ClassVar[frozenset[str]] = frozenset({"share"})
    gathers: ClassVar[frozenset[str]] = frozenset({"tests", "ngram", "evidence", "shortest", "action", "context"})

    op: Literal["decontaminate"] = "decontaminate"
    tests: list[EvaluationSet] = Field(
        min_length=1, description="Test data: paths, or {path: FILE, name: NAME, fields: [question, choices]}."
    )
    share: Range = Field(
        default=Range(max=0.3),
        description="Which share of one test item's n-grams may stand in a record. Laws, classics and rows of numbers "
        "share up to 0.2 with items that they are no copy of; with {max: 0} any match is too much.",
    )
    ngram: int = Field(default=13, ge=2, le=100, description="Words (or Chinese characters) in a row that are equal.")
    evidence: int = Field(
        default=60,
        ge=1,
        description="Letters and digits, in bytes, that matches with an item must have together to count: some 12 "
        "English words or 20 Chinese characters, more than nearly all set phrases. 1: every n-gram counts.",
    )
    shortest: int = Field(
        default=40,
        ge=1,
        description="Letters and digits, in bytes, from which on an item without an n-gram is matched whole; shorter "
        "ones are counted as too short to check.",
    )
    action: Literal["drop", "cut"] = Field(
        default="drop", description="What is done to a record with too much. cut: the matching passages are taken out."
    )
    context: int = Field(
        default=100, ge=0, description="With cut: characters taken out on both sides of a passage, to whole words."
    )

    def files(self) -> list[str]:
        return [test.path for test in self.tests]

    def bounds(self) -> dict[str, Range]:
        return {} if self.action == "cut" else super().bounds()

    def edits(self) -> bool:
        return self.action == "cut"

    def gathering(self) -> dict[str, Any]:
        # What is cut depends on the bounds as well; who is dropped is decided later.
        return super().gathering() | ({"share": self.share.model_dump()} if self.action == "cut" else {})


DuplicatesStep = NearDedupStep | LineDedupStep | DecontaminateStep
