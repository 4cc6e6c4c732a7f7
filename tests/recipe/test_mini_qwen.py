"""The published mini_qwen files through its recipe: a few steps of each stage here, all of them by `danlu run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import danlu
from danlu.ledger.manifest import read_manifest
from danlu.ledger.metrics import read_metrics
from danlu.model.settings import parameters
from danlu.recipe.settings import load_recipe
from danlu.recipe.smoke import smoked

RECIPES = Path(__file__).parents[2] / "recipes"
FEW = [
    *("pretrain.train.steps=1", "pretrain.train.batch=2", "pretrain.data.held_out=0"),
    *("sft.train.steps=1", "sft.train.batch=4", "sft.data.held_out=0", "sft.data.workers=1"),
    *("dpo.train.steps=1", "dpo.train.batch=2", "dpo.data.held_out=0", "evaluate=null"),
]


def test_the_published_shape_has_the_published_size() -> None:
    model = load_recipe(RECIPES / "mini_qwen_1b" / "pretrain.yaml").model
    assert model is not None
    assert parameters(model) == 998_810_624


def test_every_stage_steps_on_the_original_files(shared_data: Path, qwen_tokenizer: Path, tmp_path: Path) -> None:
    places = [f"data={shared_data / 'mini_qwen'}", f"tokenizer.path={qwen_tokenizer}", f"out={tmp_path / 'run'}"]
    danlu.run(load_recipe(RECIPES / "mini_qwen_small.yaml", [*places, *FEW]))
    for stage in ("pretrain", "sft", "dpo"):
        assert len(read_metrics(tmp_path / "run" / stage / "metrics.jsonl")) == 1
    packed = read_manifest(tmp_path / "run" / "pack" / "sft")
    assert packed is not None
    assert packed["train"]["examples"] == 200
    found = json.loads((tmp_path / "run" / "sft" / "data_check.json").read_text("utf-8"))["found"]
    assert found["stops_untrained"] == 0
    assert found["rows_without_loss"] == 0
    # Every row that was cut or dropped has its reason, and what is left of the answers is all in the loss.
    assert found["cuts"] == {"dropped: a single turn is longer than the window": 18, "oldest turns left out": 4}
    assert found["roles"]["user"]["in_loss"] == 0


@pytest.mark.prove
def test_the_three_stages_of_the_1b_recipe_smoke(shared_data: Path, qwen_tokenizer: Path, tmp_path: Path) -> None:
    places = [f"data={shared_data / 'mini_qwen'}", f"tokenizer.path={qwen_tokenizer}", f"out={tmp_path / 'run'}"]
    for stage in ("pretrain", "sft", "dpo"):
        danlu.run(smoked(load_recipe(RECIPES / "mini_qwen_1b" / f"{stage}.yaml", places)))
        rows = read_metrics(tmp_path / "run-smoke" / stage / "metrics.jsonl")
        assert len([row for row in rows if "loss" in row]) == 4
