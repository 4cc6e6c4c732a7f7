"""The invariances of a step, as `danlu doctor` measures them; and that it would see what breaks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from danlu.model.reward_head import reward_shape
from danlu.model.settings import ModelSettings
from danlu.train.invariances import PLAIN, WAYS, Sample, distance, gradient, run_invariances
from danlu.train.objectives.dpo import DPO
from danlu.train.objectives.kto import KTO
from danlu.train.objectives.next_token import NextToken
from danlu.train.objectives.reward import Reward
from danlu.train.precision import LossScale
from danlu.train.preference_settings import DPOTrainSettings, KTOTrainSettings, RewardTrainSettings

UNTIED = ModelSettings(
    family="qwen3",
    vocab_size=tiny.VOCABULARY,
    hidden_size=16,
    layers=5,
    heads=2,
    kv_heads=1,
    head_dim=16,
    mlp_size=40,
    tie_embeddings=False,
    sliding_window=7,
)


@pytest.mark.parametrize(
    ("shape", "objective", "unit"),
    [
        (tiny.SHAPE, NextToken(), "document"),
        (UNTIED, DPO(DPOTrainSettings()), "pair"),
        (tiny.SHAPE, KTO(KTOTrainSettings(undesirable_weight=2.0)), "labelled"),
        (reward_shape(UNTIED), Reward(RewardTrainSettings(center=0.01)), "pair"),
    ],
    ids=["tied next_token", "untied dpo", "kto", "reward"],
)
def test_nothing_changes_a_step(tmp_path: Path, shape: ModelSettings, objective: Any, unit: str) -> None:
    checks = run_invariances(shape, objective, tiny.stream(tmp_path, unit))
    for check in checks:
        print(f"{check.name:45} {check.measured:.1e} (limit {check.limit:.1e})")
    assert len(checks) == 3 * len(WAYS) + 1
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]


@pytest.mark.parametrize(
    ("precision", "formats"),
    [("float32", ["float64", "float32"]), ("fp16", ["float64", "float32", "float16"])],
)
def test_the_format_of_the_run_is_checked(tmp_path: Path, precision: str, formats: list[str]) -> None:
    checks = run_invariances(tiny.SHAPE, NextToken(), tiny.stream(tmp_path), precision)
    found = [check.name.rpartition(", ")[2] for check in checks]
    assert found == formats * len(WAYS) + ["float32"]
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]
    assert all(0 < check.limit < 0.1 for check in checks[:-1])


def test_a_loss_scale_that_overflows_is_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sample.of(tiny.SHAPE, NextToken(), tiny.stream(tmp_path))
    exact = gradient(sample, PLAIN, torch.float32)
    usual = distance(gradient(sample, PLAIN, torch.float16), exact)
    monkeypatch.setattr(LossScale, "START", 2.0**24)
    assert distance(gradient(sample, PLAIN, torch.float16), exact) < 2 * usual < 0.02


class MeanOfMeans(NextToken):
    """The wrong way to accumulate: every micro-batch counts alike, however many targets it has."""

    def compute(self, network: Any, batch: Any, factor: float = 1.0) -> Any:
        loss, sums = super().compute(network, batch, factor)
        return loss * 20 / batch.target_weights.sum(), sums


def test_a_wrong_accumulation_is_seen(tmp_path: Path) -> None:
    accumulated = next(way for way in WAYS if way.together == 1)
    apart = {}
    for objective in (NextToken(), MeanOfMeans()):
        sample = Sample.of(tiny.SHAPE, objective, tiny.stream(tmp_path))
        reference, other = (gradient(sample, way, torch.float64) for way in (PLAIN, accumulated))
        apart[type(objective)] = distance(other, reference)
    assert apart[NextToken] < 1e-12
    assert apart[MeanOfMeans] > 1e-2
