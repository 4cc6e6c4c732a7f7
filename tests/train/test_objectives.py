"""What the objectives report, where it differs from what they minimise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from danlu.tokens.batch import Placed, Shape, make_batch
from danlu.tokens.encode import Encoded
from danlu.train.objectives.next_token import NextToken

STOP = 3
TOKEN_BYTES = np.array([1, 3, 6, 0])


def conversation(tokens: list[int], weights: list[float]) -> Placed:
    empty = np.zeros(0, np.int32)
    kinds = empty.astype(np.uint8)
    encoded = Encoded(
        np.array(tokens, np.uint32), np.array(weights, np.float32), empty, kinds, kinds, empty.astype(np.int16), 0
    )
    return Placed(encoded, source=0, index=0)


def test_bits_per_byte_counts_what_spells_text() -> None:
    """A stop token is in the loss; as it spells nothing, it is not in the bits per byte."""
    runs = [[conversation([0, 1, 2, STOP], [0.0, 1.0, 0.5, 2.0])]]
    batch = make_batch(runs, Shape(rows=1, length=8, documents=2), TOKEN_BYTES)
    nats = {1: 2.0, 2: 3.0, STOP: 7.0}

    def network(batch: Any, needs: str, factor: float = 1.0) -> dict[str, torch.Tensor]:
        labels = batch.tokens.flatten()[batch.targets].tolist()
        logp = torch.tensor([-nats.get(label, 0.0) for label in labels])
        return {
            "nll": -(logp * batch.target_weights).sum() * factor,
            "logp": logp,
            "correct": torch.zeros(len(labels), dtype=torch.bool),
        }

    loss, sums = NextToken().compute(network, batch.torch(), factor=0.25)
    assert float(loss) == pytest.approx(0.25 * (2.0 + 0.5 * 3.0 + 2.0 * 7.0))
    named = dict(zip(NextToken.sums, map(float, sums), strict=True))
    found = NextToken().report(named, normaliser=3.5, text_bytes=batch.text_bytes)
    assert found["loss"] == pytest.approx((2.0 + 0.5 * 3.0 + 2.0 * 7.0) / 3.5)
    assert found["bits_per_byte"] == pytest.approx((2.0 + 3.0) / math.log(2) / (3 + 6))
