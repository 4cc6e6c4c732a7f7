"""The heaviest batch is not tried where it would take more memory than there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from danlu.model.settings import ModelSettings
from danlu.train.heaviest import lacking_memory
from danlu.train.settings import TrainSettings


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU says itself that it is too small")
def test_a_shape_beyond_memory_is_told_before_it_is_made(tmp_path: Path) -> None:
    stream = tiny.stream(tmp_path, "document")
    small = ModelSettings(vocab_size=100, hidden_size=16, layers=2, heads=2, kv_heads=2, mlp_size=32)
    huge = ModelSettings(vocab_size=150_000, hidden_size=16_384, layers=200, heads=128, kv_heads=8, mlp_size=65_536)
    assert lacking_memory(TrainSettings(), small, stream) is None
    told = lacking_memory(TrainSettings(), huge, stream)
    assert told is not None and "GiB are free here" in told
