"""What cleaning asks of a model. Made once in each process that scores, by the name that the step gives."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import numpy as np
import torch

from danlu.infer.model import load
from danlu.infer.reward import reward_scores
from danlu.ledger.errors import UserError
from danlu.text.records import Message


def bits_per_byte(model: str, window: int | None = None) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to their bits per byte, float64; NaN for an empty one.

    `model` is a folder as `load` takes it, `window` the most tokens that it sees at once. Raises UserError for a folder
    without a model.
    """
    _share_cores()
    loaded = load(model)
    return lambda texts: np.array([one.bits_per_byte for one in loaded.scores(texts, window)], np.float64)


def rewards(model: str) -> Callable[[list[list[Message]]], np.ndarray]:
    """A function from conversations that end in an answer to their rewards, float64; NaN for one that the model's chat
    template refuses. Raises UserError for a folder without a reward model.
    """
    _share_cores()
    score = reward_scores(model)
    score([])  # what is wrong with the model is said here, so that what fails below is wrong with a conversation

    def scores(chats: list[list[Message]]) -> np.ndarray:
        try:
            return score(chats).astype(np.float64)
        except UserError:
            half = len(chats) // 2
            return np.concatenate([scores(chats[:half]), scores(chats[half:])]) if half else np.full(1, np.nan)

    return scores


def _share_cores() -> None:
    """One of many workers takes one core: together they take all."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
