"""Fitting a linear classifier over hashed n-grams, as `text/classifiers` uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from danlu.ledger.progress import Bar
from danlu.text.classifiers.features import bags, counts
from danlu.text.classifiers.hashed import HashedClassifier, Shape

BATCH = 64
RATE = 10.0  # large, as a weight moves only a mean of hundreds: 1 and 3 gave less on unseen sources, 30 no more
WINDOW = 2000  # characters of a text that a step sees; another stretch in each epoch


def fit(
    texts: Sequence[str], labels: Sequence[int], shape: Shape, bar: Bar, *, epochs: int = 5, seed: int = 0
) -> HashedClassifier:
    """Minimises the cross-entropy of `labels` (places in `shape.labels`) by Adagrad with a rate that falls to 0.

    The same texts in the same order and the same seed give the same weights.
    """
    with torch.sparse.check_sparse_tensor_invariants(False):  # torch warns where it is not said
        return _fitted(texts, torch.tensor(labels), shape, bar, epochs, np.random.default_rng(seed))


def _fitted(
    texts: Sequence[str], targets: torch.Tensor, shape: Shape, bar: Bar, epochs: int, random: np.random.Generator
) -> HashedClassifier:
    table = nn.EmbeddingBag(1 << shape.bits, len(shape.labels) - 1, mode="sum", sparse=True)
    nn.init.zeros_(table.weight)
    bias = nn.Parameter(torch.zeros(len(shape.labels) - 1))
    optimizer = torch.optim.Adagrad([table.weight, bias], lr=RATE)
    steps = epochs * -(-len(texts) // BATCH)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        order = random.permutation(len(texts))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            windows = [_window(texts[place], random) for place in chosen]
            loss = F.cross_entropy(_scores(table, bias, windows, shape), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            bar.advance(len(chosen), loss=loss.item())
    weights = table.weight.detach().T.contiguous().numpy()
    return HashedClassifier(shape, weights, bias.detach().numpy())


def _scores(table: nn.EmbeddingBag, bias: torch.Tensor, texts: list[str], shape: Shape) -> torch.Tensor:
    """[texts, labels]: what the classifier computes, the first label's being 0."""
    found = bags(texts, shape.ngram, shape.bits)
    several = torch.from_numpy(np.maximum(counts(found), 1).astype(np.float32))
    total = sum(table(torch.from_numpy(places), torch.from_numpy(bounds[:-1])) for places, bounds in found)
    return F.pad(total / several[:, None] + bias, (1, 0))


def _window(text: str, random: np.random.Generator) -> str:
    start = int(random.integers(max(1, len(text) - WINDOW + 1)))
    return text[start : start + WINDOW]
