"""Supervised models of fastText, .bin and .ftz: looked through first, then run by fastText's own code.

That code trusts what a file says: of a damaged one it reads beyond its memory. So nothing reaches it that
`fasttext_file.check` has not found to be whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.errors import UserError
from danlu.text.classifiers.fasttext_file import check

_LABEL = "__label__"
_OTHER = "copy or train it again"


class FastText:
    """A supervised model. Labels go without __label__."""

    def __init__(self, path: Path, model: Any, labels: list[str]) -> None:
        self._path, self._model = path, model
        self.labels = [label.removeprefix(_LABEL) for label in labels]
        self._column = {label: place for place, label in enumerate(labels)}

    @classmethod
    def load(cls, path: Path) -> FastText:
        """Reads a .bin or .ftz. Raises UserError for a file that is damaged, or no supervised model."""
        import fasttext

        labels = check(path)
        try:
            return cls(path, fasttext.load_model(str(path)), labels)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise UserError(f"fastText cannot read this model ({error})", where=str(path), do=_OTHER) from None

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts, labels], each text as one line. With the loss ova or ns each label is on its own."""
        found = np.zeros((len(texts), len(self.labels)))
        for row, text in zip(found, texts, strict=True):
            line = text.encode("utf-8", "replace").decode().replace("\n", " ")
            try:
                # `f` as a package of the same name, but newer, has other ways around it.
                predicted = self._model.f.predict(line + "\n", len(self.labels), 0.0, "strict")
            except RuntimeError as error:
                raise UserError(f"fastText fails on this model ({error})", where=str(self._path), do=_OTHER) from None
            for probability, label in predicted:
                row[self._column[label]] = min(probability, 1.0)  # fastText adds 1e-5 before it takes the logarithm
        return found
