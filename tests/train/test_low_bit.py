"""AdamW with moments in 8 bits or paged: near AdamW, portable between forms, resumed."""

from __future__ import annotations

import copy
import shutil
import sys
from itertools import product
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from danlu.ledger.checkpoints import checkpoint_folder
from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.train.optim import Optimizer
from danlu.train.settings import SaveSettings, TrainSettings

COMMON = {"batch": 8, "rows": 4, "learning_rate": 1e-2, "save": SaveSettings(every=3, keep_last=9)}

SIZES = {"large": (96, 70), "whole": (64, 64), "small": (7, 9), "bias": (5,)}


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("states", ["8bit", "paged"])
def test_trains_and_resumes_like_float32(tmp_path: Path, states: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.train.optim.SMALL", 256)  # so that most of a tiny decoder's parameters take part
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


@pytest.mark.parametrize("states", ["8bit", "paged"])
def test_moments_are_written_as_they_were_read(states: str) -> None:
    """Into either form, and from float32: large, small and odd parameters."""
    random = torch.Generator().manual_seed(0)
    weights = {name: torch.nn.Parameter(torch.randn(size, generator=random)) for name, size in SIZES.items()}
    one, other = (Optimizer(TrainSettings(optimizer_states=states), weights, {}) for _ in range(2))
    for _ in range(3):
        for weight in weights.values():
            weight.grad = torch.randn(weight.shape, generator=random) - 0.3
        one.step(1e-3)
    moments = one.moments()
    assert {name: {key: value.shape for key, value in held.items()} for name, held in moments.items()} == {
        moment: {name: weight.shape for name, weight in weights.items()} for moment in ("exp_avg", "exp_avg_sq")
    }
    other.load(copy.deepcopy(moments), 3)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    ends = []
    for optimizer in (one, other):
        for name, weight in weights.items():
            weight.data.copy_(start[name])
        optimizer.step(1e-3)
        ends.append({name: weight.detach().clone() for name, weight in weights.items()})
    for name in weights:
        assert torch.equal(ends[0][name], ends[1][name])
        for moment in moments:
            assert torch.equal(one.moments()[moment][name], other.moments()[moment][name])


def test_moments_of_float32_go_on_in_8_bits() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(96, 70, generator=random))
    exact, small = (Optimizer(TrainSettings(optimizer_states=one), {"w": weight}, {}) for one in ("float32", "8bit"))
    weight.grad = torch.randn(96, 70, generator=random)
    exact.step(1e-3)
    given = exact.moments()
    small.load(given, 1)
    for name, held in small.moments().items():
        assert (held["w"] - given[name]["w"]).abs().max() < 0.01 * given[name]["w"].abs().max()


def test_sharded_moments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.train.optim.DTensor", torch.nn.Parameter)
    with pytest.raises(UserError, match="cannot be cut into shards"):
        Optimizer(TrainSettings(optimizer_states="8bit"), {"w": torch.nn.Parameter(torch.ones(64, 64))}, {})
    for states, sharding in product(("8bit", "paged"), ("gradients", "full")):  # before any work, not at its training
        with pytest.raises(ValueError, match=f"optimizer_states: {states} keeps moments that cannot be cut"):
            TrainSettings(optimizer_states=states, sharding=sharding)


def test_without_bitsandbytes_8_bits_work_and_paged_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    weight = torch.nn.Parameter(torch.ones(64, 64))
    Optimizer(TrainSettings(optimizer_states="8bit"), {"w": weight}, {}).step(1e-3)
    with pytest.raises(UserError, match=r"danlu\[bitsandbytes\]"):
        Optimizer(TrainSettings(optimizer_states="paged"), {"w": weight}, {})
