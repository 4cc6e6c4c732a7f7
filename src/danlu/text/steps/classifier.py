"""The step that drops records by a classifier's score, and what all steps share that use a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from danlu.text.steps.base import Range
from danlu.text.steps.statistics import RangesStep

SETTINGS, WEIGHTS = "classifier.json", "classifier.safetensors"
FASTTEXT = (".bin", ".ftz")
PATH = "A folder that `danlu clean train-classifier` wrote, or a .bin or .ftz file of fastText (supervised)."


def is_fasttext(path: str) -> bool:
    """Whether it is a file of fastText; else it is a folder of danlu's."""
    return path.endswith(FASTTEXT)


def classifier_files(path: str) -> list[str]:
    """The files that the classifier consists of."""
    return [path] if is_fasttext(path) else [str(Path(path) / name) for name in (SETTINGS, WEIGHTS)]


def classifier_scorer(path: str, labels: list[str], split_han: bool = False) -> dict[str, Any]:
    """How a worker makes what gives the labels' probabilities."""
    arguments = {"path": path, "labels": labels, "split_han": split_han}
    return {"function": "danlu.text.classifiers.load:scorer", "arguments": arguments}


class ClassifierStep(RangesStep):
    """Drops records by the probability of a label, such as good or spam, that a classifier gives the whole record."""

    decides: ClassVar[frozenset[str]] = frozenset({"score"})
    folders: ClassVar[tuple[str, ...]] = ("path",)

    op: Literal["classifier"] = "classifier"
    path: str = Field(description=PATH)
    label: str = Field(description="The label whose probability is the score; of fastText's without __label__.")
    score: Range = Field(
        default=Range(),
        description="The label's probability, 0 to 1. {min: 0.5} for a label to keep, {max: 0.9} for one to drop; "
        "which value gives which precision, training prints.",
    )
    split_han: bool = Field(
        default=False,
        description="For a file of fastText that was trained on Chinese text with a blank between characters: writes "
        "such blanks first.",
    )

    def files(self) -> list[str]:
        return classifier_files(self.path)

    def scorer(self) -> dict[str, Any] | None:
        return classifier_scorer(self.path, [self.label], self.split_han)

    @model_validator(mode="after")
    def _splits_for_fasttext(self) -> Self:
        if self.split_han and not is_fasttext(self.path):
            raise ValueError("`split_han` is for files of fastText; danlu's split by themselves. Remove it.")
        return self
