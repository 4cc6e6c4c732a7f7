"""Curves from our metrics and from published Trainer logs, and what the diagnosis makes of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from danlu.ledger.errors import UserError
from danlu.ledger.metrics import Metric, MetricsWriter
from danlu.report.curves import Curve, read_curve
from danlu.report.diagnose import diagnose, step_at

LOGS = "reference/mini_qwen_logs"


def kinds(curve: Curve) -> list[str]:
    return [finding.kind for finding in diagnose(curve)]


def made(loss: np.ndarray, **columns: np.ndarray) -> Curve:
    rows = [
        {
            "step": float(index + 1),
            "loss": float(value),
            **{name: float(column[index]) for name, column in columns.items()},
        }
        for index, value in enumerate(loss)
    ]
    return Curve("made", rows, None, {})


def test_metrics_are_read_with_gaps_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "sft" / "metrics.jsonl"
    schema = {name: Metric("", "", "") for name in ("loss", "held_out_loss", "epoch")}
    writer = MetricsWriter(path, schema)
    writer.write(1, loss=3.0, epoch=0.5)
    writer.write(2, loss=math.nan, epoch=1.0, held_out_loss=2.5)
    writer.write(3, loss=2.0, epoch=1.5)
    writer.close()
    curve = read_curve(path)
    assert curve.name == "sft"
    assert curve.points("loss") == [(1, 3.0), (3, 2.0)]
    assert curve.points("held_out_loss") == [(2, 2.5)]
    assert curve.epoch_starts() == [2.0]
    assert kinds(curve)[0] == "not_finite"


def test_the_last_step_of_a_run_starts_no_epoch() -> None:
    curve = made(np.ones(6), epoch=np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0]))
    assert curve.epoch_starts() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("name", "rows", "last", "first_loss", "last_loss"),
    [
        ("output_pt", 676, 13520, 12.123, 2.831),
        ("output_pt2", 5, 100, 10.7111, 7.6913),
        ("output_dpo", 23, 460, 0.6962, 0.5264),
    ],
)
def test_published_logs(
    shared_data: Path, name: str, rows: int, last: int, first_loss: float, last_loss: float
) -> None:
    curve = read_curve(shared_data / LOGS / f"{name}.log")
    loss = curve.points("loss")
    assert len(loss) == rows
    assert (loss[0][1], loss[-1]) == (first_loss, (last, last_loss))
    assert curve.seconds == pytest.approx(curve.final["train_runtime"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("output_dpo1", ["steps"]),  # learning rate 1e-6; its author: falls in steps, overfitted
        ("output_dpo2", ["steps_slight"]),  # 5e-7 from epoch 3: steps still, somewhat overfitted
        ("output_dpo3", ["cold"]),  # 1e-7: falls by 0.03 only, too low
        ("output_dpo", ["steps_slight"]),  # 5e-7 from epoch 2, the one kept: faint steps
        ("output_pt", ["calm"]),
        ("output_pt1", ["short"]),
    ],
)
def test_diagnosis_agrees_with_the_author_of_the_logs(shared_data: Path, name: str, expected: list[str]) -> None:
    assert kinds(read_curve(shared_data / LOGS / f"{name}.log")) == expected


def test_the_kept_run_has_fainter_steps_than_the_one_before_it(shared_data: Path) -> None:
    kept, before = (
        diagnose(read_curve(shared_data / LOGS / name))[0] for name in ("output_dpo.log", "output_dpo2.log")
    )
    assert kept.values["mean"] < before.values["mean"]


def test_a_step_is_measured_beyond_the_trend() -> None:
    random = np.random.default_rng(0)
    steps = np.arange(1, 201)
    trend = 3 - 0.002 * steps + random.normal(0, 0.005, 200)
    smooth = list(zip(map(float, steps), trend, strict=True))
    stepped = [(step, value - (0.3 if step > 100 else 0)) for step, value in smooth]
    assert step_at(smooth, 100, 50) in (None, pytest.approx(0, abs=0.003))
    assert step_at(stepped, 100, 50) == pytest.approx(0.3 / 2.8, abs=0.004)


def test_what_is_wrong_is_named() -> None:
    random = np.random.default_rng(1)
    steps = np.arange(200)
    noise = random.normal(0, 0.01, 200)
    falling = 2 + 2 * np.exp(-steps / 40) + noise
    rate = np.full(200, 1e-3)
    assert kinds(made(falling, learning_rate=np.linspace(1e-3, 0, 200))) == ["calm"]
    assert "diverged" in kinds(made(np.concatenate([falling[:100], np.linspace(2.1, 6, 100)])))
    assert "flat" in kinds(made(np.concatenate([falling[:60], 2.5 + noise[:140] / 10]), learning_rate=rate))
    assert "unfinished" in kinds(made(np.linspace(8, 4, 200) + noise))
    spiky = falling.copy()
    spiky[[120, 150]] += 1.5
    found = [finding for finding in diagnose(made(spiky)) if finding.kind == "spikes"]
    assert found[0].values["count"] == 2
    assert found[0].values["step"] in (121, 151)


def test_overfitting_is_seen_on_held_out_text() -> None:
    steps = np.arange(60)
    curve = made(3 - 0.02 * steps, held_out_loss=3 + 0.0005 * (steps - 20.0) ** 2)
    found = next(finding for finding in diagnose(curve) if finding.kind == "overfit")
    assert found.wrong
    assert found.values["step"] == 21
    assert found.values["rise"] == pytest.approx(0.0005 * 39**2 / 3)


def test_a_file_without_a_curve_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "nohup.log"
    log.write_text("Traceback: {'a': 1}\n", "utf-8")
    with pytest.raises(UserError, match="no training step"):
        read_curve(log)
    with pytest.raises(UserError, match="no such file"):
        read_curve(tmp_path / "absent.log")
