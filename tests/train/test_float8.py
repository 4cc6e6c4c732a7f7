"""Runs in float8: their loss beside bf16's, adapters, recomputation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.model.decoder import Decoder
from danlu.train.float8 import use_float8
from danlu.train.precision import require_format
from danlu.train.preference_settings import DPOTrainSettings
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA, QLoRA

COMMON = {"batch": 8, "rows": 4, "learning_rate": 1e-2, "epochs": 10.0, "steps": 60}


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row]


def test_sixty_steps_lose_what_bf16_loses(tmp_path: Path) -> None:
    found = {}
    for name in ("bf16", "float8"):
        tiny.run(tmp_path / name, TrainSettings(**COMMON, precision=name))
        found[name] = losses(tmp_path / name)
    tiny.run(tmp_path / "again", TrainSettings(**COMMON, precision="float8", recompute=True))
    assert losses(tmp_path / "again") == found["float8"]
    assert len(found["bf16"]) == 60
    assert found["bf16"][-1] < 0.6 * found["bf16"][0]
    late = {name: sum(values[-20:]) / 20 for name, values in found.items()}
    assert late["float8"] == pytest.approx(late["bf16"], rel=0.02)
    assert late["float8"] != late["bf16"]


@pytest.mark.parametrize(
    "how",
    [LoRA(rank=4), LoRA(rank=4, targets=["q_proj", "down_proj"], dropout=0.1), LoRA(rank=4, dora=True), QLoRA(rank=4)],
    ids=["all", "some", "DoRA", "4 bits"],
)
def test_an_adapter_over_a_frozen_base(how: LoRA, tmp_path: Path) -> None:
    for name in ("bf16", "float8"):
        tiny.run(tmp_path / name, TrainSettings(**{**COMMON, "steps": 12, "tune": how}, precision=name))
    plain, found = losses(tmp_path / "bf16"), losses(tmp_path / "float8")
    assert found[-1] < found[0]
    assert found == pytest.approx(plain, rel=3e-3)
    assert found != plain


def test_odd_sizes_are_refused() -> None:
    odd = Decoder.empty(tiny.SHAPE.model_copy(update={"mlp_size": 36}))
    with pytest.raises(UserError, match=r"layer 0\.gate_up has a weight of 72 × 16"):
        use_float8(odd.blocks)


def test_cards_without_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(UserError, match="A100 has no products in float8"):
        require_format("float8", torch.device("cuda"))
    require_format("bf16", torch.device("cuda"))


def test_a_reference_in_bf16_is_not_taken_for_one_in_float8(tmp_path: Path) -> None:
    for name in ("bf16", "float8"):
        settings = DPOTrainSettings(batch=8, rows=4, steps=1, precision=name)
        tiny.run(tmp_path / name, settings, "pair", cache=tmp_path / "references")
    assert len(list((tmp_path / "references").glob("*.safetensors"))) == 2 * 2  # of what is trained on, and held out
