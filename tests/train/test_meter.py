"""What the meter says of a run: rates, shares, where the time went, and what to turn."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tiny
import torch

from danlu.ledger.manifest import read_manifest
from danlu.ledger.metrics import read_metrics
from danlu.model.settings import ModelSettings, training_flops
from danlu.report.report import report
from danlu.train.ceiling import _measured, ceiling_flops
from danlu.train.clock import Clock
from danlu.train.meter import PHASES, WARM, Meter, Speed, Work
from danlu.train.next_setting import next_setting
from danlu.train.parallel import World
from danlu.train.settings import SaveSettings, TrainSettings

HERE = World(0, 1, torch.device("cpu"))


def test_a_moment_counts_to_the_innermost_phase_alone() -> None:
    clock = Clock(HERE.device)
    begin = time.perf_counter()
    with clock.phase("forward"):
        time.sleep(0.02)
        with clock.phase("communication"):
            time.sleep(0.05)
        time.sleep(0.01)
    with pytest.raises(KeyError), clock.phase("backward"):
        raise KeyError
    whole = time.perf_counter() - begin
    spent = clock.read()
    assert spent["communication"] >= 0.05 and 0.03 <= spent["forward"] <= whole - spent["communication"]
    assert sum(spent.values()) == pytest.approx(whole, abs=2e-3) and clock.read() == {}


def test_shares_of_a_ceiling_are_operations_over_time() -> None:
    meter = Meter(tiny.SHAPE, 32, HERE, ceiling=1e9)
    speeds = []
    for documents, seconds in (([32], 0.1), ([32], 0.1), ([32, 16, 8], 0.02), ([5], 0.01)):
        with meter.phase("forward"):
            time.sleep(seconds)
        speeds.append(meter.read(Work(64, sum(documents), 1, documents), examples_left=10))
    third = speeds[WARM]
    assert third["useful_share"] == 56 / 64 and third["time_forward"] == 1.0
    seconds = 64 / third["tokens_per_second"]
    assert third["ceiling_share"] == pytest.approx(training_flops(tiny.SHAPE, [32, 16, 8]) / 1e9 / seconds)
    last = meter.speed()
    assert last is not None and last.useful_share == 61 / 128, "the first steps are left out"
    assert "mfu" not in third, "this device's peak is not known"


def test_the_ceiling_is_a_real_rate() -> None:
    _measured.cache_clear()
    state = torch.get_rng_state()
    rate = ceiling_flops(HERE.device, torch.float32)
    assert torch.equal(state, torch.get_rng_state()), "a run's random numbers stay where they are"
    a, b = torch.randn(2, 512, 512)
    begin = time.perf_counter()
    for _ in range(8):
        a @ b
    small = 8 * 2 * 512**3 / (time.perf_counter() - begin)
    assert 0.2 < rate / small < 20 and ceiling_flops(HERE.device, torch.float32) == rate


def speed(**shares: float) -> Speed:
    whole = {**dict.fromkeys(PHASES, 0.0), "forward": 0.3, "backward": 0.6, **shares}
    return Speed(1e4, 0.97, whole, None, None, 0.4, None)


@pytest.mark.parametrize(
    ("shares", "settings", "setting"),
    [
        ({}, {}, None),
        ({"data": 0.1}, {}, "token_sets"),
        ({"saving": 0.2, "data": 0.1}, {}, "train.save.every, train.evaluate_every"),
        ({"communication": 0.2}, {"sharding": "full"}, "train.sharding=optimizer"),
        ({"communication": 0.2}, {"sharding": "none"}, "train.batch"),
        ({"optimizer": 0.2}, {}, "train.batch"),
    ],
)
def test_the_next_setting_follows_from_the_shares(
    shares: dict[str, float], settings: dict[str, str], setting: str | None
) -> None:
    found = next_setting(speed(**shares), TrainSettings(precision="bf16", **settings), tiny.SHAPE, HERE)
    assert (found.setting if found else None) == setting


@pytest.mark.parametrize(("generation", "installed"), [(9, False), (9, True), (8, False)])
def test_hopper_is_told_of_cudnn(monkeypatch: pytest.MonkeyPatch, generation: int, installed: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    monkeypatch.setattr("danlu.train.next_setting.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1))
    shape, there = ModelSettings(vocab_size=64, hidden_size=256, layers=1, heads=2, mlp_size=64), torch.device("cuda")
    found = next_setting(speed(), TrainSettings(precision="bf16"), shape, World(0, 1, there))
    told = found is not None and "danlu[cudnn]" in found.setting
    assert told == (generation == 9 and not installed)


def test_a_run_tells_its_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pretrain"
    settings = TrainSettings(batch=8, rows=4, steps=6, save=SaveSettings(weights_only=True), precision="bf16")
    tiny.run(out, settings, data=tmp_path / "data")
    said = capsys.readouterr().err.splitlines()[-1]
    assert "tokens/s; " in said and "% of this machine's products; data" in said
    kept = (read_manifest(out) or {})["speed"]
    rows = [row for row in read_metrics(out / "metrics.jsonl") if "loss" in row][WARM:]
    assert min(row["tokens_per_second"] for row in rows) <= kept["tokens_per_second"]
    assert kept["tokens_per_second"] <= max(row["tokens_per_second"] for row in rows)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    manifest["speed"]["next"] = {"setting": "train.rows=null", "en": "half is free", "zh": "有一半空着"}
    (out / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    english, chinese = (report([out], tmp_path / one, one).read_text("utf-8") for one in ("en", "zh"))
    assert all(words in english for words in ("of this machine", "communication", "train.rows=null · half is free"))
    assert all(words in chinese for words in ("占本机矩阵乘上限", "通信", "train.rows=null · 有一半空着"))
