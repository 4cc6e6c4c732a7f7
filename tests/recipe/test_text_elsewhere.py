"""Text is packed where it lies and trained on elsewhere; held-out prompts come from what was packed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.metrics import read_metrics
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe

BOOK = "春江潮水连海平，海上明月共潮生。The quick brown fox jumps over the lazy dog."


def write_text(folder: Path) -> None:
    folder.mkdir()
    chats = [
        [
            {"role": "user", "content": f"第{n}个问题？" if n % 2 else f"What is number {n}?"},
            {"role": "assistant", "content": f"这是第{n}个回答。" if n % 2 else f"It is the answer {n}."},
        ]
        for n in range(60)
    ]
    rows: dict[str, list[dict[str, object]]] = {
        "chats": [{"messages": chat} for chat in chats],
        "books": [{"text": f"{n}: {BOOK}"} for n in range(60)],
    }
    for name, content in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")


def recipe_of() -> Recipe:
    data: dict[str, object] = {"length": 96, "held_out": 0.2, "workers": 1}
    content = {
        "name": "elsewhere", "out": "runs/mine", "data": "text", "language": "zh",
        "tokenizer": {"train": {"vocab_size": 300}},
        "model": {"family": "qwen3", "hidden_size": 16, "layers": 1, "heads": 2, "mlp_size": 32, "max_positions": 128},
        "pretrain": {
            "data": {"sources": [{"path": "books.jsonl"}], "pack": "best_fit", **data},
            "train": {"steps": 2, "batch": 4},
        },
        "sft": {
            "data": {"sources": [{"path": "chats.jsonl"}], **data},
            "train": {"steps": 2, "batch": 4, "tune": {"method": "lora", "rank": 2}},
        },
        "evaluate": {"prompts": [], "held_out_prompts": 3, "prompt_tokens": 6, "raw": []},
    }  # fmt: skip
    return check(Recipe, content)


def losses(stage: str) -> list[float]:
    return [row["loss"] for row in read_metrics(Path("runs/mine", stage, "metrics.jsonl")) if "loss" in row]


def test_packed_here_trained_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    write_text(here / "text")
    run_recipe(recipe_of(), until="pack")
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("text"))
    run_recipe(recipe_of(), until="sft")
    trained = {stage: losses(stage) for stage in ("pretrain", "sft")}
    capsys.readouterr()

    monkeypatch.chdir(there)
    found = {one.stage.name: one.state for one in run_recipe(recipe_of())}
    assert [found[name] for name in ("tokenizer", "pack/pretrain", "pack/sft")] == ["unchanged"] * 3
    assert capsys.readouterr().out.count("制作它的文件不在这里") == 3
    assert {stage: losses(stage) for stage in trained} == trained
    asked = json.loads(Path("runs/mine/evaluate/results.json").read_text("utf-8"))["sft"]["side_by_side"]["answers"]
    assert len(asked) == 3
    for item in asked:
        number = "".join(filter(str.isdigit, item["prompt"]))
        assert item["reference"] in (f"这是第{number}个回答。", f"It is the answer {number}.")
    assert "数据中的回答" in Path("runs/mine/report/index.html").read_text("utf-8")

    shutil.rmtree("runs/token-sets")
    with pytest.raises(UserError, match=r"books\.jsonl"):
        run_recipe(recipe_of(), until="pack")
