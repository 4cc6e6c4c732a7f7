"""Copies to the host by way of two small buffers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.train import staging
from danlu.train.staging import Staging


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(7, 333),
        torch.randn(40, 30).T,
        torch.randn(25, 10).bfloat16(),
        torch.arange(251, dtype=torch.uint8),
        torch.randn(25, 10, dtype=torch.float64),
        torch.tensor(3.5),
        torch.empty(0, 4),
    ],
    ids=[
        "many pieces",
        "transposed",
        "bf16, two pieces",
        "bytes, less than a piece",
        "whole pieces",
        "one value",
        "none",
    ],
)
def test_what_arrives_is_what_was_sent(tensor: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "STAGED", 400)
    way = Staging(torch.device("cpu"))
    first = way.to_host(tensor)
    way.to_host(torch.zeros(999))  # the buffers are used again
    assert first.dtype == tensor.dtype
    assert torch.equal(first, tensor)
    assert not first.numel() or first.data_ptr() != tensor.data_ptr()
