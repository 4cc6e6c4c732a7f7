"""The classifier at a path, as a function of texts."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from danlu.ledger.errors import UserError
from danlu.text.classifiers.fasttext import FastText
from danlu.text.classifiers.hashed import HashedClassifier
from danlu.text.ops.operator import Scorer
from danlu.text.steps.classifier import classifier_files, is_fasttext


class Classifier(Protocol):
    """Probabilities of labels."""

    @property
    def labels(self) -> list[str]: ...

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """float64 [texts, labels]."""


def classifier_at(path: str) -> Classifier:
    """The classifier in danlu's folder or fastText's file `path`, read once. Raises UserError where there is none."""
    return _loaded(path, tuple(map(_stamp, classifier_files(path))))


def scorer(path: str, labels: list[str], split_han: bool = False) -> Scorer:
    """Texts to the probabilities of `labels`, [texts, labels]; of one label, [texts].

    Raises UserError for a path without a classifier, and for labels that it does not know.
    """
    _columns(path, labels)

    def score(texts: list[str]) -> np.ndarray:
        given = [_apart(text) for text in texts] if split_han else texts
        found = classifier_at(path).probabilities(given)[:, _columns(path, labels)]
        return found[:, 0] if len(labels) == 1 else found

    return score


def _columns(path: str, labels: list[str]) -> list[int]:
    known = classifier_at(path).labels
    plain = [label.removeprefix("__label__") if is_fasttext(path) else label for label in labels]
    if unknown := [label for label in plain if label not in known]:
        shown = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
        raise UserError(f"the classifier knows no label {', '.join(unknown)}", where=path, do=f"name one of: {shown}")
    return [known.index(label) for label in plain]


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0  # reading it says what is wrong
    return status.st_mtime_ns, status.st_size


@lru_cache(2)
def _loaded(path: str, stamps: tuple[tuple[int, int], ...]) -> Classifier:
    return FastText.load(Path(path)) if is_fasttext(path) else HashedClassifier.load(Path(path))


def _apart(text: str) -> str:
    import regex

    return regex.sub(r"(\p{Han})", r" \1 ", text)
