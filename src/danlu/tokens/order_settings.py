"""Settings of a curriculum: what comes first in training."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from danlu.config import Settings

Threshold = float | str


class CurriculumStage(Settings):
    """A part of the way through a source, in which only its easier examples are shown."""

    until: float = Field(
        gt=0, lt=1, description="The stage ends at this share of a pass, or before, once it has shown all it may."
    )
    below: Threshold | None = Field(
        default=None,
        description="Only examples with a lower score: a number, or q30 for the score of which 30% are lower.",
    )
    above: Threshold | None = Field(
        default=None, description="Only examples with a higher score; instead of `below`, with `first: high`."
    )

    @field_validator("below", "above")
    @classmethod
    def _readable(cls, value: Threshold | None) -> Threshold | None:
        if isinstance(value, str) and not (re.fullmatch(r"q\d+(\.\d+)?", value) and 0 < float(value[1:]) < 100):
            raise ValueError(f"{value!r} is no threshold. Write a number, or a quantile such as q30, from q0 to q100.")
        return value


class Pacing(Settings):
    """How the share of a source that may be shown grows, easiest first.

    The competence of Platanios et al. 2019 (arXiv 1903.09848): at share t of a pass the easiest
    min(1, (t / full · (1 - start^power) + start^power)^(1 / power)) may be shown.
    """

    start: float = Field(default=0.1, gt=0, lt=1, description="The share that may be shown at the beginning.")
    full: float = Field(default=0.5, gt=0, le=1, description="At this share of a pass everything may be shown.")
    power: float = Field(
        default=2.0, ge=1, description="1: the share grows evenly; 2: fast, then slowly (by the square root)."
    )


class CurriculumSettings(Settings):
    """Easy before hard, inside each source. A pass still shows every example exactly once."""

    by: str = Field(
        default="length",
        description="The score: `length` (tokens of the example), or any number in the records' meta or rows.",
    )
    first: Literal["low", "high"] = Field(default="low", description="Which scores are easy and come first.")
    stages: list[CurriculumStage] = Field(
        default=[], description="In stages: [{until: 0.3, below: q30}, {until: 0.6, below: q60}]; then all the rest."
    )
    pacing: Pacing | None = Field(default=None, description="Continuous instead of in stages; the default.")
    passes: int | None = Field(
        default=None, ge=1, description="Only the first so many passes over a source are ordered; null: all."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.stages and self.pacing:
            raise ValueError("A curriculum has `stages` or `pacing`. Remove one of them.")
        side, other = ("below", "above") if self.first == "low" else ("above", "below")
        for stage in self.stages:
            if getattr(stage, side) is None or getattr(stage, other) is not None:
                raise ValueError(f"With `first: {self.first}` a stage has `{side}`, not `{other}`.")
        if any(after.until <= before.until for before, after in pairwise(self.stages)):
            raise ValueError("The stages' `until` must rise. Put them in order.")
        thresholds = [getattr(stage, side) for stage in self.stages]
        sign = 1 if self.first == "low" else -1
        for before, after in pairwise(thresholds):
            if isinstance(before, str) == isinstance(after, str):
                lower, higher = (sign * float(str(value).lstrip("q")) for value in (before, after))
                if higher <= lower:
                    raise ValueError(
                        f"Each stage must let in more than the one before: {after} does not after {before}."
                    )
        return self
