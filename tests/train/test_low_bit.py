"""AdamW with moments in 8 bits or paged: near AdamW, portable between forms, resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from danlu.ledger.checkpoints import checkpoint_folder
from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.train.low_bit import read_moments
from danlu.train.optim import Optimizer
from danlu.train.settings import SaveSettings, TrainSettings

COMMON = {"batch": 8, "rows": 4, "learning_rate": 1e-2, "save": SaveSettings(every=3, keep_last=9)}


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("states", ["8bit", "paged"])
def test_trains_and_resumes_like_float32(tmp_path: Path, states: str) -> None:
    exact, small = TrainSettings(**COMMON), TrainSettings(**COMMON, optimizer_states=states)
    tiny.run(tmp_path / "exact", exact)
    tiny.run(tmp_path / "small", small)
    assert losses(tmp_path / "small") == pytest.approx(
        losses(tmp_path / "exact"), rel=2e-2 if states == "8bit" else 1e-5
    )
    shutil.copytree(tmp_path / "small", tmp_path / "again")
    for step in (9, 12):
        shutil.rmtree(checkpoint_folder(tmp_path / "again", step))
    tiny.run(tmp_path / "again", small)
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "small"), rel=1e-6)
    names = load_file(checkpoint_folder(tmp_path / "exact", 3) / "state/optimizer.safetensors").keys()
    assert load_file(checkpoint_folder(tmp_path / "small", 3) / "state/optimizer.safetensors").keys() == names


def test_eight_bits_are_written_as_they_were_read() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(96, 70, generator=random))
    settings = TrainSettings(optimizer_states="8bit")
    one, other = (Optimizer(settings, {"w": weight}, {}) for _ in range(2))
    for _ in range(3):
        weight.grad = torch.randn(96, 70, generator=random) - 0.3
        one.step(1e-3)
    moments = one.moments()
    other.load(moments, 3)
    state, again = (optimizer._adamw.state[weight] for optimizer in (one, other))
    assert state["state1"].dtype == torch.uint8
    for number in "12":
        assert torch.equal(state[f"state{number}"], again[f"state{number}"])
        assert torch.allclose(state[f"absmax{number}"], again[f"absmax{number}"], rtol=1e-6)
    assert read_moments(again).keys() == moments.keys()


def test_sharded_moments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.train.low_bit.DTensor", torch.nn.Parameter)
    with pytest.raises(UserError, match="cannot be cut into shards"):
        Optimizer(TrainSettings(optimizer_states="8bit"), {"w": torch.nn.Parameter(torch.ones(2, 2))}, {})


def test_without_bitsandbytes_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"danlu\[bitsandbytes\]"):
        Optimizer(TrainSettings(optimizer_states="8bit"), {"w": torch.nn.Parameter(torch.ones(2, 2))}, {})
