"""Learning rates and batches over a run."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import get_cosine_schedule_with_warmup

from danlu.train.preference_settings import DPOTrainSettings
from danlu.train.schedule import Plan, batch_size, learning_rate, more_than_an_epoch
from danlu.train.settings import RampStage, TrainSettings


def rates(**more: object) -> list[float]:
    settings = TrainSettings(learning_rate=1.0, batch=4, **more)
    plan = Plan.of(settings, 400)
    return [learning_rate(settings, plan, step * 4) for step in range(plan.steps)]


def test_cosine_is_transformers_own() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 10, 100)
    ours = rates(warmup=10, floor=0.0)
    for step in range(100):
        if step >= 10:  # ours does not waste the first step on a rate of 0: (s + 1) / (w + 1)
            assert math.isclose(theirs.get_last_lr()[0], ours[step], abs_tol=1e-12)
        else:
            assert math.isclose(ours[step], (step + 1) / 11)
        optimizer.step()
        theirs.step()


@given(
    st.sampled_from(["cosine", "wsd", "linear", "constant"]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_shape(schedule: str, warmup: float, floor: float) -> None:
    found = rates(schedule=schedule, warmup=warmup, floor=floor)
    peak = found.index(max(found))
    assert max(found) == pytest.approx(1.0)
    assert found[:peak] == sorted(found[:peak]) and found[peak:] == sorted(found[peak:], reverse=True)
    assert min(found[peak:]) >= floor - 1e-12
    assert schedule != "constant" or found[-1] == 1.0


def test_wsd_is_steady_then_falls_over_its_last_share() -> None:
    found = rates(schedule="wsd", warmup=10, decay=0.2, floor=0.0)
    assert found[10:80] == [1.0] * 70
    assert found[85] == pytest.approx(1 - math.sqrt(5 / 20))


def test_a_partial_last_step_and_a_limit_of_steps() -> None:
    settings = TrainSettings(batch=4)
    assert Plan.of(settings, 10) == Plan(10, 3)
    assert Plan.of(TrainSettings(batch=4, steps=2), 10) == Plan(8, 2)
    assert Plan.of(TrainSettings(batch=4, steps=9), 10) == Plan(10, 3)


def test_a_step_of_more_than_the_data_is_told_before_it_begins() -> None:
    huge = TrainSettings(learning_rate=1.0, batch=100_000_000, steps=3)
    told = more_than_an_epoch(huge, Plan.of(huge, 400), 200)
    assert told is not None and "more than the 200 examples" in told and "the run has 1 step" in told
    all_of_it = TrainSettings(learning_rate=1.0, batch=200)
    assert more_than_an_epoch(all_of_it, Plan.of(all_of_it, 400), 200) is None


def test_batch_ramp() -> None:
    settings = TrainSettings(batch=64, batch_ramp=[RampStage(tokens=100, batch=8), RampStage(tokens=300, batch=16)])
    assert [batch_size(settings, tokens) for tokens in (0, 99, 100, 299, 300)] == [8, 8, 16, 16, 64]


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (TrainSettings, {"warmup": 1.5}, "whole number of steps"),
        (TrainSettings, {"skip": [(5, 5)]}, "0 ≤ from < to"),
        (TrainSettings, {"betas": (0.9, 1.0)}, "below 1"),
        (TrainSettings, {"schedule": "wsd", "warmup": 0.9}, "lower one"),
        (TrainSettings, {"batch_ramp": [RampStage(tokens=9, batch=1), RampStage(tokens=3, batch=2)]}, "rise in tokens"),
        (TrainSettings, {"optimiser": "adamw"}, "not permitted"),
        (DPOTrainSettings, {"loss": "ipo", "label_smoothing": 0.1}, "for loss: sigmoid"),
    ],
)
def test_settings_say_what_is_wrong(kind: type[TrainSettings], values: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind(**values)


def test_every_setting_is_described() -> None:
    for kind in (TrainSettings, DPOTrainSettings):
        assert all(field.description for field in kind.model_fields.values())
