"""How well a classifier does on texts that it has not seen: precision and recall, by label and by threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True, slots=True)
class Found:
    """Of the texts that are found, `precision` are right; `recall` of those that are right are found."""

    precision: float
    recall: float
    found: int

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def by_label(truth: np.ndarray, probabilities: np.ndarray) -> list[Found]:
    """For each label, the texts for which it is the likeliest; `truth` [texts] are the labels' places."""
    guessed = probabilities.argmax(1)
    return [_found(truth == place, guessed == place) for place in range(probabilities.shape[1])]


def by_threshold(right: np.ndarray, scores: np.ndarray) -> dict[float, Found]:
    """The texts with a score above each threshold; `right` [texts] says which have the label."""
    return {threshold: _found(right, scores > threshold) for threshold in THRESHOLDS}


def average_precision(right: np.ndarray, scores: np.ndarray) -> float:
    """The area under precision over recall, as a sum over the scores that occur (Su, Yuan & Zhu 2015)."""
    precision, recall, _ = _curve(right, scores)
    return float(np.sum(precision * np.diff(recall, prepend=0.0)))


def threshold_for(right: np.ndarray, scores: np.ndarray, precision: float) -> tuple[float, Found] | None:
    """The threshold that finds most texts with at least this precision; None where none has it.

    It lies in the middle between the last score that is above it and the next one.
    """
    precisions, recalls, distinct = _curve(right, scores)
    good = np.flatnonzero((precisions >= precision) & (recalls > 0) & (distinct > 0))
    if not len(good):
        return None
    last = good[np.argmax(recalls[good])]  # the first of those with the greatest recall is the most precise
    below = distinct[last + 1] if last + 1 < len(distinct) else 0.0
    threshold = float((distinct[last] + below) / 2)
    return threshold, _found(right, scores > threshold)


def _found(right: np.ndarray, found: np.ndarray) -> Found:
    both = int(np.count_nonzero(right & found))
    several = int(np.count_nonzero(found))
    return Found(both / several if several else 0.0, both / max(1, int(np.count_nonzero(right))), several)


def _curve(right: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall of the texts with at least each score that occurs, and these scores, falling."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits = np.cumsum(right[order])[ends]
    return hits / (ends + 1), hits / max(1, np.count_nonzero(right)), ordered[ends]
