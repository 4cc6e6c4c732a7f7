"""In a recipe cleaning steps find their tokenizers and models: the recipe's own, a folder's, or what a stage makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.infer.model import load
from danlu.ledger.errors import UserError
from danlu.recipe.build import build_stages
from danlu.recipe.clean_plan import print_clean_plan
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.text.readers import read_rows
from danlu.tokens.tokenizer import Tokenizer

TEXTS = ["短文。", "A sentence of some words.", "炉火正旺，今天也要炼丹！" * 3]


def recipe_of(folder: Path, *steps: dict[str, Any], **sections: Any) -> Recipe:
    (folder / "raw.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    clean = {"sources": [{"path": "raw.jsonl", "kind": "document"}], "steps": list(steps), "workers": 1}
    return check(
        Recipe, {"name": "scores", "out": str(folder / "out"), "data": str(folder), "clean": clean, **sections}
    )


@pytest.mark.parametrize("where", ["recipe", "step"])
def test_tokens_are_counted_by_the_recipes_tokenizer_or_the_steps_own(
    tmp_path: Path, reciting_model: Path, where: str
) -> None:
    tokenizer = Tokenizer.load(reciting_model)
    most = len(tokenizer.encode(TEXTS[1]))
    assert len(tokenizer.encode(TEXTS[0])) < most < len(tokenizer.encode(TEXTS[2]))
    step: dict[str, Any] = {"op": "tokens", "count": {"max": most}}
    if where == "recipe":
        recipe = recipe_of(tmp_path, step, tokenizer={"path": str(reciting_model)})
    else:
        recipe = recipe_of(tmp_path, {**step, "tokenizer": str(reciting_model)})
    run_recipe(recipe, until="clean")
    assert [row.fields["text"] for row in read_rows(tmp_path / "out" / "clean" / "documents")] == TEXTS[:2]


def test_a_dry_run_counts_too(tmp_path: Path, reciting_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_clean_plan(recipe_of(tmp_path, {"op": "tokens", "tokenizer": str(reciting_model)}))
    assert "tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "sections", "said"),
    [
        ({"op": "tokens"}, {}, "tokens needs a tokenizer"),
        ({"op": "history_tokens", "tokens": 9}, {"tokenizer": {"train": {}}}, "history_tokens needs a tokenizer"),
        ({"op": "tokens", "tokenizer": "absent"}, {}, "no such tokenizer or model"),
        ({"op": "perplexity", "model": "absent"}, {}, "no such tokenizer or model"),
        ({"op": "perplexity", "model": "pretrain:"}, {}, "names a stage that this recipe does not have before clean"),
        ({"op": "tokens", "tokenizer": "tokenizer:"}, {}, "names a stage that this recipe does not have before clean"),
    ],
)
def test_what_a_step_lacks_is_said_before_any_work(
    tmp_path: Path, step: dict[str, Any], sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        build_stages(recipe_of(tmp_path, step, **sections))
    assert not (tmp_path / "out").exists()


def test_a_model_that_the_recipe_trains_measures_what_is_cleaned_after_it(tmp_path: Path) -> None:
    world = {"people": 6, "places": 4, "objects": 4, "largest_addend": 3, "documents": 40, "conversations": 4}
    steps = [
        {"op": "tokens", "tokenizer": "tokenizer:"},
        {"op": "perplexity", "model": "pretrain:", "shortest": 1, "zh": {"max": 7}},
    ]
    recipe = recipe_of(
        tmp_path,
        *steps,
        sample={**world, "preferences": 2},
        tokenizer={"train": {"sources": [{"path": "sample:documents"}], "vocab_size": 400, "reserved": 2}},
        model={
            "family": "qwen3", "vocab_size": 448, "hidden_size": 16, "layers": 1, "heads": 2, "mlp_size": 32,
            "max_positions": 128,
        },
        pretrain={
            "data": {"sources": [{"path": "sample:documents"}], "length": 64, "workers": 1},
            "train": {"steps": 2, "batch": 4},
        },
    )  # fmt: skip
    outcomes = run_recipe(recipe, until="clean")
    assert [one.stage.name for one in outcomes] == ["sample", "tokenizer", "pack/pretrain", "pretrain", "clean"]
    model = load(tmp_path / "out" / "pretrain")
    expected = [model.scores([text], 512)[0].bits_per_byte for text in TEXTS]
    kept = [row.fields["text"] for row in read_rows(tmp_path / "out" / "clean" / "documents")]
    assert (
        kept == [text for text, bits in zip(TEXTS, expected, strict=True) if bits <= 7 or text == TEXTS[1]]
        and kept != TEXTS
    )
    assert {one.state for one in run_recipe(recipe, until="clean")} == {"unchanged"}
