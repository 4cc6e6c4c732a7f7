"""A linear classifier over hashed n-grams: `danlu clean train-classifier` makes it, numpy alone reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from danlu.config import Settings
from danlu.ledger.errors import UserError
from danlu.text.classifiers.features import FEATURES, Bags, bags, counts
from danlu.text.steps.classifier import SETTINGS, WEIGHTS

LOGIT = 80.0  # beyond it, float64 knows no other probability than 0 or 1


class Shape(Settings):
    """What a classifier tells apart, and by which features."""

    labels: list[str] = Field(min_length=2, description="In the order of its probabilities.")
    ngram: int = Field(default=3, ge=1, le=8, description="The longest n-gram, in words, Chinese characters and marks.")
    bits: int = Field(default=20, ge=8, le=28, description="N-grams are hashed to 2^bits places.")
    features: int = Field(default=FEATURES, description="Which code made the features.")


@dataclass(frozen=True, slots=True)
class HashedClassifier:
    """The score of a label is its bias and the mean of its weights at the places of a text's n-grams.

    The first label's are 0, so `weights` is float32 [labels - 1, 2^bits] and `bias` float32 [labels - 1].
    """

    shape: Shape
    weights: np.ndarray
    bias: np.ndarray

    @property
    def labels(self) -> list[str]:
        return self.shape.labels

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts, labels], the softmax of the scores; a text without any word has those of the bias."""
        found = bags(texts, self.shape.ngram, self.shape.bits)
        several = np.maximum(counts(found), 1)
        scores = np.zeros((len(texts), len(self.labels)))
        for place, (weights, bias) in enumerate(zip(self.weights, self.bias.tolist(), strict=True), 1):
            scores[:, place] = _sums(weights, found) / several + bias
        powers = np.exp(np.clip(scores - scores.max(1, keepdims=True), -LOGIT, 0))
        return np.asarray(powers / powers.sum(1, keepdims=True))

    def save(self, folder: Path) -> None:
        """Writes its two files into a folder that is there."""
        from safetensors.numpy import save_file

        (folder / SETTINGS).write_text(self.shape.model_dump_json(indent=1), "utf-8")
        save_file({"weights": self.weights, "bias": self.bias}, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> HashedClassifier:
        """Reads what `save` wrote. Raises UserError for anything else."""
        shape = _shape(folder / SETTINGS)
        tensors = _tensors(folder / WEIGHTS)
        several = len(shape.labels) - 1
        expected = {"weights": (several, 1 << shape.bits), "bias": (several,)}
        found = {name: tensor.shape for name, tensor in tensors.items() if tensor.dtype == np.float32}
        if found != expected or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
            raise UserError(
                f"these are not the weights that {SETTINGS} speaks of", where=str(folder / WEIGHTS), do=_AGAIN
            )
        return cls(shape, tensors["weights"], tensors["bias"])


_AGAIN = "train it again, or copy the whole folder again"


def _sums(weights: np.ndarray, found: Bags) -> np.ndarray:
    """The sum of the weights of each text's n-grams, float64; the same whatever texts stand beside it."""
    total = np.zeros(len(found[0][1]) - 1)
    for places, bounds in found:
        some = np.flatnonzero(np.diff(bounds))
        if len(some):
            total[some] += np.add.reduceat(weights.take(places), bounds[some])
    return total


def _shape(path: Path) -> Shape:
    try:
        shape = Shape.model_validate_json(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"no classifier can be read here: {error.strerror}",
            where=str(path),
            do="name a folder that `danlu clean train-classifier` wrote, or a .bin or .ftz file of fastText",
        ) from None
    except (ValidationError, UnicodeDecodeError, json.JSONDecodeError):
        raise UserError("these are no settings of a classifier", where=str(path), do=_AGAIN) from None
    if shape.features != FEATURES or len(set(shape.labels)) < len(shape.labels):
        raise UserError("another danlu wrote this classifier", where=str(path), do="train it again") from None
    return shape


def _tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"the classifier's weights cannot be read ({error})", where=str(path), do=_AGAIN) from None
