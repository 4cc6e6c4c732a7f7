"""What users say of themselves becomes tags, and training tells held-out loss by them: in metrics, summary and page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe

PLACES = [("我坐标成都，{}", "四川"), ("I live in Texas. {}", "Texas"), ("{}", None)]


def recipe_of(folder: Path, model: Path, **train: Any) -> Recipe:
    raw = folder / "raw.jsonl"
    if not raw.exists():
        rows = [
            [
                {"role": "user", "content": PLACES[n % 3][0].format(f"第{n}个问题？")},
                {"role": "assistant", "content": f"这是第{n}个回答，" + "an answer " * (n % 5)},
            ]
            for n in range(90)
        ]
        raw.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    data = {"sources": [{"path": "clean:conversations"}], "length": 192, "held_out": 0.4, "workers": 1}
    content = {
        "name": "tags", "out": str(folder / "out"), "data": str(folder), "language": "zh",
        "clean": {"sources": [{"path": "raw.jsonl"}], "steps": [{"op": "tags"}], "workers": 1},
        "tokenizer": {"path": str(model)},
        "model": {
            "family": "qwen3", "vocab_size": 288, "hidden_size": 16, "layers": 1, "heads": 2, "mlp_size": 32,
            "max_positions": 256,
        },
        "sft": {"data": data, "train": {"steps": 3, "batch": 4, **train}},
        "evaluate": {},
    }  # fmt: skip
    return check(Recipe, content)


def test_loss_by_tag(tmp_path: Path, reciting_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_recipe(recipe_of(tmp_path, reciting_model, by=["region"], evaluate_every=2))
    out = tmp_path / "out"
    rows = read_metrics(out / "sft" / "metrics.jsonl")
    tags = [(row["step"], row["tag"]) for row in rows if "tag" in row]
    found = sorted({tag for _, tag in tags})
    assert {"region=四川"} < set(found) and len(found) == 2
    assert tags == [(step, tag) for step in (2, 3) for tag in found]
    results = json.loads((out / "evaluate" / "results.json").read_text("utf-8"))["sft"]["bits_per_byte"]["sft"]
    last = {row["tag"]: row for row in rows if row["step"] == 3 and "tag" in row}
    for tag in found:  # another way to the same: the engine's scores, document by document
        assert last[tag]["held_out_bits_per_byte"] == pytest.approx(results["tag"][tag]["bits_per_byte"], rel=1e-4)
        assert 0 < results["tag"][tag]["documents"] < results["documents"]
    shown = capsys.readouterr().out
    page = (out / "report" / "index.html").read_text("utf-8")
    assert "地区=四川" in page and "留出集损失，地区" in page
    assert "四川" in shown
    changed = {one.stage.name: one.state for one in run_recipe(recipe_of(tmp_path, reciting_model, evaluate_every=2))}
    assert changed["sft"] == "unchanged", "by what losses are told changes no weights"


def test_windows_have_no_tags(tmp_path: Path, reciting_model: Path) -> None:
    content = recipe_of(tmp_path, reciting_model).model_dump(mode="json", by_alias=True, exclude={"sft", "evaluate"})
    data = {"sources": [{"path": "raw.jsonl"}], "pack": "concat"}
    with pytest.raises(UserError, match=r"pretrain\.train\.by"):
        check(Recipe, {**content, "pretrain": {"data": data, "train": {"by": ["region"]}}})
