"""What cleaning asks of a model. Made once in each process that scores, by the name that the step gives."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import numpy as np
import torch

from danlu.infer.model import load


def bits_per_byte(model: str, window: int | None = None) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to their bits per byte, float64; NaN for an empty one.

    `model` is a folder as `load` takes it, `window` the most tokens that it sees at once. Raises UserError for a folder
    without a model.
    """
    _share_cores()
    loaded = load(model)
    return lambda texts: np.array([one.bits_per_byte for one in loaded.scores(texts, window)], np.float64)


def _share_cores() -> None:
    """One of many workers takes one core: together they take all."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
