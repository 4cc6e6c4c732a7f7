"""The heaviest batch: tried on weights as a run holds them, and not where it would take more memory than there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from heavy import heavy

from danlu.ledger.errors import UserError
from danlu.model.adapt import slots
from danlu.model.settings import ModelSettings
from danlu.train.heaviest import heaviest, lacking_memory, random_decoder
from danlu.train.objectives.next_token import NextToken
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import Full, LoRA, QLoRA


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU says itself that it is too small")
def test_a_shape_beyond_memory_is_told_before_it_is_made(tmp_path: Path) -> None:
    stream = tiny.stream(tmp_path, "document")
    small = ModelSettings(vocab_size=100, hidden_size=16, layers=2, heads=2, kv_heads=2, mlp_size=32)
    huge = ModelSettings(vocab_size=150_000, hidden_size=16_384, layers=200, heads=128, kv_heads=8, mlp_size=65_536)
    assert lacking_memory(TrainSettings(), small, stream) is None
    lacking = lacking_memory(TrainSettings(), huge, stream)
    assert lacking is not None and lacking[0] > 2**40 > lacking[1]


@pytest.mark.parametrize("how", [Full(), LoRA(rank=2), QLoRA(rank=2)])
def test_it_is_tried_on_what_the_run_holds(how: Any, tmp_path: Path) -> None:
    settings = TrainSettings(batch=8, rows=2, precision="bf16", compile=False, tune=how)
    made = random_decoder(settings, tiny.SHAPE, 1)
    frozen, small = not isinstance(how, Full), isinstance(how, QLoRA)
    assert made.embed.weight.dtype == (torch.bfloat16 if frozen else torch.float32)
    assert all((slot.quantised is not None) == small for _, _, slot in slots(made))
    load = heaviest(settings, NextToken(), made, tiny.stream(tmp_path, "document"))
    assert load.rows == 2 and load.tokens_per_second > 0


def test_rows_are_halved_until_they_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream, settings = tiny.stream(tmp_path, "document"), TrainSettings(rows=8, compile=False)
    assert heaviest(settings, heavy(NextToken(), 2), tiny.decoder(), stream).rows == 2
    assert "with 8 rows a micro-batch: going on with 4" in capsys.readouterr().err
    with pytest.raises(UserError, match="not even a micro-batch of 1 row fits"):
        heaviest(settings, heavy(NextToken(), 0), tiny.decoder(), stream)
