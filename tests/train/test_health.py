"""What counts as a healthy run."""

from __future__ import annotations

import json
import math

from danlu.train.health import Health


def calm(steps: int = 60) -> Health:
    health = Health()
    for step in range(steps):
        health.observe(3.0 - step * 0.005 + 0.02 * math.sin(step), 1.0 + 0.05 * math.cos(step))
    return health


def test_a_calm_run_is_healthy() -> None:
    record = calm().record()
    assert record.healthy and record.why == "finite loss, calm gradient norm"
    assert record.non_finite == 0 and record.loss is not None


def test_a_spike_is_named_and_forgotten_later() -> None:
    health = calm()
    health.observe(9.0, 1.0)
    assert not health.record().healthy and "loss" in health.record().why
    for step in range(10):
        health.observe(2.7 + 0.02 * math.sin(step), 1.0)
    assert health.record().healthy


def test_a_wild_gradient_a_dead_loss_scale_and_what_is_not_finite() -> None:
    health = calm()
    health.observe(2.7, 40.0)
    assert "gradient norm" in health.record().why
    health = calm()
    health.observe(2.7, 1.0, loss_scale=2.0**-3)
    assert "loss scale is 0.125" in health.record().why
    health = calm()
    assert not health.observe(math.nan, 1.0) and not health.observe(2.7, math.inf)
    record = health.record()
    assert not record.healthy and record.non_finite == 2 and record.non_finite_in_a_row == 2
    assert health.observe(2.7, 1.0) and health.record().healthy and health.record().non_finite == 2


def test_its_state_survives_json() -> None:
    health = calm()
    other = Health()
    other.load(json.loads(json.dumps(health.state())))
    health.observe(5.0, 1.0)
    other.observe(5.0, 1.0)
    assert other.record() == health.record()
    assert not Health().record().healthy
