"""What a classifier is worth, as tables: for the terminal and for one self-contained page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from danlu.evaluate.classification import average_precision, by_label, by_threshold, threshold_for
from danlu.report.scores import Table
from danlu.report.words import Language, percent, say
from danlu.text.classifiers.labelled import Example

_SHOWN = 5  # mistakes of a label
_EXCERPT = 160  # characters


@dataclass(frozen=True, slots=True)
class Tested:
    """A classifier's probabilities [texts, labels] of examples that it has not learned from."""

    examples: list[Example]
    probabilities: np.ndarray
    labels: list[str]

    @property
    def truth(self) -> np.ndarray:
        """[texts]: the place of each example's label."""
        return np.array([self.labels.index(example.label) for example in self.examples])

    def threshold(self, label: str, precision: float) -> tuple[float, float, float] | None:
        """(threshold, precision, recall) that finds most of a label with at least this precision."""
        place = self.labels.index(label)
        best = threshold_for(self.truth == place, self.probabilities[:, place], precision)
        return best and (best[0], best[1].precision, best[1].recall)


def sections(tested: Tested, precision: float, language: Language) -> dict[str, list[Table]]:
    """The tables of each section, in order."""
    made = _Tables(tested, precision, language)
    return {
        "by_label": [made.labels()],
        "thresholds": [made.thresholds(place) for place in range(len(tested.labels))],
        "mistakes": [made.mistakes()],
    }


class _Tables:
    def __init__(self, tested: Tested, precision: float, language: Language) -> None:
        self.tested, self.precision, self.language = tested, precision, language

    def say(self, key: str) -> str:
        return say(key, self.language)

    def labels(self) -> Table:
        tested, truth = self.tested, self.tested.truth
        rows = []
        for place, (label, found) in enumerate(zip(tested.labels, by_label(truth, tested.probabilities), strict=True)):
            best = tested.threshold(label, self.precision)
            area = average_precision(truth == place, tested.probabilities[:, place])
            shown = [f"{best[0]:.4g}", percent(best[1]), percent(best[2])] if best else ["–", "–", "–"]
            plain = [percent(found.precision), percent(found.recall), percent(found.f1), f"{area:.4f}"]
            rows.append([label, f"{np.count_nonzero(truth == place):,}", *plain, *shown])
        head = ("label", "texts_held_out", "precision", "recall", "f1", "average_precision")
        chosen = self.say("threshold_for").format(precision=percent(self.precision))
        best_head = [chosen, self.say("precision"), self.say("recall")]
        return Table(self.say("by_label"), [*map(self.say, head), *best_head], rows, note=self.say("by_label_note"))

    def thresholds(self, place: int) -> Table:
        found = by_threshold(self.tested.truth == place, self.tested.probabilities[:, place])
        rows = [
            [f"> {threshold:g}", f"{one.found:,}", percent(one.precision), percent(one.recall), percent(one.f1)]
            for threshold, one in found.items()
        ]
        head = ("score", "found", "precision", "recall", "f1")
        return Table(self.tested.labels[place], [*map(self.say, head)], rows)

    def mistakes(self) -> Table:
        """The examples that the classifier is most sure of and wrong about, some of each label."""
        tested, truth = self.tested, self.tested.truth
        guessed, sure = tested.probabilities.argmax(1), tested.probabilities.max(1)
        rows = []
        for place, label in enumerate(tested.labels):
            wrong = np.flatnonzero((truth == place) & (guessed != place))
            for at in wrong[np.argsort(-sure[wrong], kind="stable")][:_SHOWN].tolist():
                example = tested.examples[at]
                excerpt = " ".join(example.text[: 2 * _EXCERPT].split())[:_EXCERPT]
                rows.append([label, tested.labels[guessed[at]], f"{sure[at]:.3f}", example.where, excerpt])
        head = ("label", "taken_for", "score", "origin", "text")
        return Table(self.say("mistakes"), [*map(self.say, head)], rows, names=5)
