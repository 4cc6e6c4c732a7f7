"""A reward model, KTO, ORPO and SimPO by recipe: from rows on disk to scores of held-out pairs."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import danlu
from danlu.infer.reward import reward_scores
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.ledger.metrics import read_metrics
from danlu.recipe.settings import Recipe, load_recipe
from danlu.recipe.smoke import smoked
from danlu.tokens.template import Template

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import tiny

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = {"zh": ("谢谢您，", "滚开，"), "en": ("please, ", "shut up, ")}
"""What good and bad answers begin with."""


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder, draw = tmp_path_factory.mktemp("preferences"), random.Random(0)
    pairs, labelled = [], []
    for number in range(240):
        language = ("zh", "en")[number % 2]
        text = "".join(draw.choices("天地玄黄宇宙洪荒" if language == "zh" else "abcdefgh ", k=8))
        good, bad = (word + text for word in WORDS[language])
        pairs.append({"prompt": text + "?", "chosen": good, "rejected": bad, "score_a": 3.0, "score_b": 1 + number % 3})
        labelled.append({"prompt": text + "!", "completion": (good, bad)[number % 3 == 0], "label": number % 3 != 0})
    write(folder / "pairs.jsonl", [*pairs, {"prompt": "?", "chosen": "x", "rejected": "x"}])
    write(folder / "labelled.jsonl", [*labelled, {"prompt": "?", "completion": "", "label": True}])
    Template(tiny.tokenizer(), choice="chatml").tokenizer.save(folder / "tokenizer")
    both = [{"name": name, "path": f"{name}.jsonl"} for name in ("pairs", "labelled")]
    data = {"sources": both[:1], "length": 96, "held_out": 0.2, "workers": 1}
    train = {"batch": 24, "learning_rate": 1e-2, "warmup": 0.1}
    shape = tiny.SHAPE.model_dump(mode="json", by_alias=True, exclude={"from_folder"})
    content = {
        "name": "preferences",
        "out": str(folder / "run"),
        "data": str(folder),
        "tokenizer": {"path": str(folder / "tokenizer")},
        "model": shape,
        "orpo": {"data": data, "train": {**train, "epochs": 1}},
        "reward": {"data": data, "train": {**train, "epochs": 4, "margin": "score_a - score_b", "center": 0.01}},
        "kto": {"start": "orpo", "data": {**data, "sources": both}, "train": {**train, "epochs": 0.5}},
        "simpo": {"start": "orpo", "data": data, "train": {**train, "epochs": 0.5}},
        "evaluate": {"prompts": [], "held_out": {"pairs": "pack/reward/held_out"}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content), "utf-8")
    loaded = load_recipe(folder / "recipe.yaml")
    danlu.run(loaded)
    return loaded


def test_the_reward_model_prefers_what_it_was_taught(recipe: Recipe) -> None:
    results = json.loads((recipe.out / "evaluate" / "results.json").read_text("utf-8"))
    assert set(results["reward"]) == {"preference"}, "a reward model writes nothing to be measured"
    found = results["reward"]["preference"]
    assert found["n"] == sum(part["n"] for part in found["language"].values()) > 30
    assert min(part["accuracy"] for part in found["language"].values()) > 0.9
    assert sum(found["histogram"]["counts"]) == found["n"]
    assert "preference" not in results["simpo"] and "bits_per_byte" in results["simpo"]
    rows = [
        json.loads(line) for line in (recipe.out / "evaluate/samples/reward/preference.jsonl").open(encoding="utf-8")
    ]
    assert np.mean([row["margin"] > 0 for row in rows]) == pytest.approx(found["accuracy"])
    asked: Any = [
        [{"role": "user", "content": "天地？"}, {"role": "assistant", "content": word + "玄黄"}] for word in WORDS["zh"]
    ]
    good, bad = reward_scores(recipe.out / "reward")(asked)
    assert good > bad + 0.5
    page = (recipe.out / "report" / "index.html").read_text("utf-8")
    assert "Held-out pairs" in page


def test_held_out_pairs_are_measured_while_it_trains(recipe: Recipe) -> None:
    rows = read_metrics(recipe.out / "reward" / "metrics.jsonl")
    held_out = [row for row in rows if row.get("source") == "all"]
    assert held_out[-1]["held_out_rewards_accuracy"] > 0.9


def test_pairs_and_labelled_answers_go_into_kto(recipe: Recipe) -> None:
    packed = read_manifest(recipe.out / "pack" / "kto")
    assert packed is not None
    examples = {name: of["train"]["examples"] + of["held_out"]["examples"] for name, of in packed["sources"].items()}
    assert examples == {"pairs": 480, "labelled": 240}
    assert "bad: empty content" in packed["sources"]["labelled"]["counts"]
    steps = [row for row in read_metrics(recipe.out / "kto" / "metrics.jsonl") if "loss" in row]
    assert {"kl", "rewards_chosen", "rewards_rejected"} <= steps[-1].keys()


def test_a_margin_that_no_row_has_is_refused(recipe: Recipe) -> None:
    train = recipe.reward.train.model_copy(update={"margin": "no_such_column"})  # type: ignore[union-attr]
    other = recipe.reward.model_copy(update={"train": train})  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"no_such_column[\s\S]*score_a, score_b"):
        danlu.run(recipe.model_copy(update={"reward": other}))


def test_labelled_answers_are_no_pairs(recipe: Recipe, tmp_path: Path) -> None:
    data = recipe.kto.data.model_copy(update={"sources": recipe.kto.data.sources[1:]})  # type: ignore[union-attr]
    other = recipe.orpo.model_copy(update={"data": data})  # type: ignore[union-attr]
    with pytest.raises(UserError, match="an answer labelled by itself is no pair"):
        danlu.run(recipe.model_copy(update={"orpo": other, "out": tmp_path / "out"}))


@pytest.mark.prove
def test_the_shipped_recipe_smokes(shared_data: Path, tmp_path: Path) -> None:
    places = [f"data={shared_data}", f"out={tmp_path / 'run'}"]
    danlu.run(smoked(load_recipe(RECIPES / "preference_small.yaml", places)))
    results = json.loads((tmp_path / "run-smoke" / "evaluate" / "results.json").read_text("utf-8"))
    assert set(results) == {"sft", "reward", "kto", "orpo", "simpo"}
