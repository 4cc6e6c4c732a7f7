"""A curriculum over shards: every example's score, and the bands from easy to hard that the scores fall into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from danlu.ledger.errors import UserError
from danlu.tokens.columns import Columns
from danlu.tokens.order import Grades
from danlu.tokens.order_settings import CurriculumSettings, Pacing, Threshold

LENGTH = "length"
STEPS = 16
"""Bands of a pacing: a process maps the shard that each is in."""


@dataclass(frozen=True, slots=True)
class Curriculum:
    """How the examples of one token set are ordered; `by` a score, its highest values first or its lowest."""

    by: str
    first: str
    grades: Grades

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """From what the pack stage's index of a source holds."""
        return cls(content["by"], content["first"], Grades(content["sizes"], content["opens"], content["passes"]))

    def ranked(self, shard: Columns, each: int, names: Sequence[str]) -> np.ndarray:
        """int64 [examples]: the numbers of a shard's examples from easy to hard, those without a score last."""
        scores = scores_of(shard, each, score_column(self.by, names), self.first == "high")
        return np.argsort(scores, kind="stable")


def score_column(by: str, names: Sequence[str]) -> int | None:
    """Which column of scores is meant, None for the length. Raises UserError for one that is not there."""
    if by == LENGTH:
        return None
    if by not in names:
        raise UserError(
            f"no record has a number called {by!r} to order by",
            do=f"order by one of {', '.join([LENGTH, *names])}, or write the score into the rows or their `meta`",
        )
    return list(names).index(by)


def scores_of(shard: Columns, each: int, column: int | None, high_first: bool) -> np.ndarray:
    """float32 [examples]: the scores, the easiest lowest; NaN where there is none. `column` None is the length.

    An example is `each` documents.
    """
    if column is None:
        found = np.diff(shard.document_offsets[::each]).astype(np.float32)
    elif shard.scores is None:
        found = np.full(len(shard) // each, np.nan, np.float32)
    else:
        found = shard.scores[::each, column]
    return -found if high_first else found


def bands(settings: CurriculumSettings, sample: np.ndarray) -> tuple[list[float], list[float]]:
    """Edges between the bands, lowest first, and when in a pass each band opens.

    `sample` holds scores of the source, the easiest lowest, with which quantiles are found.
    """
    if settings.stages:
        sign = 1 if settings.first == "low" else -1
        given = [stage.below if settings.first == "low" else stage.above for stage in settings.stages]
        edges = [_edge(threshold, sign, sample) for threshold in given]
        return np.maximum.accumulate(edges).tolist(), [0.0, *(stage.until for stage in settings.stages)]
    shares, opens = _paced(settings.pacing or Pacing())
    return np.quantile(sample, shares[:-1]).tolist(), opens


def count_bands(scores: np.ndarray, edges: Sequence[float]) -> list[int]:
    """How many of the scores lie in each band; those without a score are in the last."""
    known = np.sort(scores[~np.isnan(scores)]).astype(np.float64)
    ends = [*np.searchsorted(known, edges).tolist(), len(scores)]
    return np.diff([0, *ends]).tolist()


def _edge(threshold: Threshold | None, sign: int, sample: np.ndarray) -> float:
    if isinstance(threshold, str):
        share = float(threshold[1:]) / 100
        return float(np.quantile(sample, share if sign > 0 else 1 - share))
    return sign * float(threshold or 0.0)


def _paced(pacing: Pacing) -> tuple[list[float], list[float]]:
    """Shares of the source that may be shown, and when: a band opens when the competence reaches its upper end."""
    shares = np.linspace(pacing.start, 1.0, STEPS)
    least = pacing.start**pacing.power
    opens = pacing.full * (shares**pacing.power - least) / (1 - least)
    return shares.tolist(), opens.tolist()
