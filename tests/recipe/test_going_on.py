"""A run taken up again: with other settings, at another place, without a part of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import danlu
from danlu.ledger.metrics import read_metrics
from danlu.recipe.build import build_stages
from danlu.recipe.explain import explain
from danlu.recipe.graph import notices, state
from danlu.recipe.settings import load_recipe

SMALL = Path(__file__).parent / "small.yaml"
FEW = [
    "sft=null",
    "dpo=null",
    "pretrain.train.epochs=1",
    "pretrain.train.steps=null",
    "pretrain.train.save.every=2",
    "pretrain.train.save.keep_last=9",
]
FREE = [
    "pretrain.train.save.keep_last=5",
    "pretrain.train.evaluate_every=2",
    "pretrain.data.workers=2",
    "clean.workers=2",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "跑"
    danlu.run(load_recipe(SMALL, [f"out={out}", *FEW]))
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The run, moved away with the token sets that it shares."""
    shutil.copytree(made.parent, tmp_path / "moved")
    return tmp_path / "moved" / made.name


def states(out: Path, *more: str) -> dict[str, str]:
    stages = build_stages(load_recipe(SMALL, [f"out={out}", *FEW, *more]))
    return {stage.name: state(stage, stages) for stage in stages}


def told(out: Path, *more: str) -> list[str]:
    return [*notices(build_stages(load_recipe(SMALL, [f"out={out}", *FEW, *more])))]


def cut_short(out: Path) -> list[Any]:
    """As if the run had been ended after its first checkpoint; gives the steps of the metrics."""
    stage = out / "pretrain"
    shutil.rmtree(out / "evaluate")
    (stage / "manifest.json").unlink()
    first, *later = sorted((stage / "checkpoints").iterdir())
    for path in later:
        shutil.rmtree(path)
    assert first.name == "step-000000002"
    record = stage / "stage.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    return steps(out)


def steps(out: Path) -> list[Any]:
    rows = read_metrics(out / "pretrain" / "metrics.jsonl")
    return [(row["step"], row["consumed"], row["loss"]) for row in rows if "loss" in row]


def test_a_moved_run_is_up_to_date_and_free_settings_change_nothing(
    made: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(states(run, *FREE).values()) == {"unchanged"}
    outcomes = danlu.run(load_recipe(SMALL, [f"out={run}", *FEW, *FREE, "evaluate.batch=2"]))
    assert {outcome.state for outcome in outcomes} == {"unchanged"}
    assert not (run / ".parked").exists()
    capsys.readouterr()
    file = next(path for path in sorted((run / "sample" / "documents").rglob("*")) if path.is_file())
    line = json.loads(file.read_text("utf-8").splitlines()[0])
    job = run / "pretrain" / "job.json"
    job.write_text(job.read_text("utf-8").replace(str(made / "pack"), "/gone"), "utf-8")
    explain(run, line["text"])
    assert "pretrain" in capsys.readouterr().out


def test_a_run_that_was_cut_short_goes_on_with_other_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cut_short(run)
    more = [*FREE, "pretrain.train.epochs=2", "pretrain.train.clip=0.5"]
    assert told(run, *FREE) == []
    (pack, pretrain) = told(run, *more)
    assert "counts are for 1 epochs, not for 2" in pack
    assert pretrain.startswith("pretrain goes on from what is there, though train.epochs changed 1.0 → 2.0, train.clip")
    outcomes = danlu.run(load_recipe(SMALL, [f"out={run}", *FEW, *more]))
    assert {of.stage.name: of.state for of in outcomes}["pretrain"] == "continued"
    said = capsys.readouterr()
    assert "它的计数按 1 遍，而不是 2 遍" in said.out, "the recipe is in Chinese"
    assert "pretrain 从已有的结果接着做，尽管 train.epochs 改变（1.0 → 2.0）、train.clip 改变" in said.out
    assert "step-000000002" in said.err and "save.keep_last: 9 → 5" in said.err
    assert steps(run)[:2] == before[:2] and steps(run)[-1][1] == 2 * before[-1][1]
    assert not (run / ".parked").exists()


@pytest.mark.parametrize("setting", ["seed=7", "model.hidden_size=16", "pretrain.data.length=64"])
def test_what_the_fingerprints_hold_begins_anew_and_says_so(run: Path, setting: str) -> None:
    cut_short(run)
    (line,) = [line for line in told(run, setting) if line.startswith("pretrain ")]
    name = setting.partition("=")[0].removeprefix("pretrain.")
    assert line.startswith("pretrain starts anew, as ") and f"{name} changed" in line and "healthy" not in line


def test_a_finished_stage_of_other_settings_says_how_it_would_go_on(run: Path) -> None:
    pretrain, evaluate = told(run, "pretrain.train.learning_rate=0.01")
    assert pretrain.startswith("pretrain starts anew, as train.learning_rate changed 0.0003 → 0.01; what was there")
    assert pretrain.endswith("pretrain.train.resume=healthy goes on instead")
    assert evaluate.startswith("evaluate starts anew, as pretrain changed")
    goes_on = told(run, "pretrain.train.learning_rate=0.01", "pretrain.train.resume=healthy")
    assert goes_on[0].startswith("pretrain goes on from what is there")


def test_weights_that_were_deleted_are_made_again(run: Path) -> None:
    before = steps(run)
    newest = sorted((run / "pretrain/checkpoints").iterdir())[-1]
    (newest / "model.safetensors").unlink()
    assert told(run) == [f"pretrain: {newest.name} lacks model.safetensors; it is made again"]
    assert states(run)["pretrain"] == "unfinished"
    danlu.run(load_recipe(SMALL, [f"out={run}", *FEW]))
    assert (newest / "model.safetensors").is_file() and steps(run) == before
    shutil.rmtree(run / "pretrain" / "checkpoints")
    assert told(run) == ["pretrain: its checkpoints are gone; it is made again"]
    danlu.run(load_recipe(SMALL, [f"out={run}", *FEW]))
    assert steps(run) == before and set(states(run).values()) == {"unchanged"}


def test_weights_on_which_a_later_stage_was_built_are_made_again_for_who_needs_them(run: Path) -> None:
    recipe = [f"out={run}", *FEW[1:], "evaluate=null"]
    danlu.run(load_recipe(SMALL, recipe))
    shutil.rmtree(run / "pretrain" / "checkpoints")
    stages = build_stages(load_recipe(SMALL, recipe))
    assert {state(stage, stages) for stage in stages} == {"unchanged"}
    assert [*notices(stages)] == ["pretrain: its checkpoints are gone; nothing that is to be done needs it"]
    stages = build_stages(load_recipe(SMALL, [*recipe, "sft.train.learning_rate=0.01"]))
    assert {stage.name: state(stage, stages) for stage in stages}["pretrain"] == "unfinished"
