"""`danlu doctor` names all that a recipe asks for and that is not here, at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.recipe import missing as module
from danlu.recipe.doctor import examine
from danlu.recipe.missing import missing
from danlu.recipe.settings import Recipe


def recipe(folder: Path, **content: Any) -> Recipe:
    return check(Recipe, {"name": "a", "out": str(folder / "out"), "data": str(folder), **content})


def write(path: Path, text: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return str(path)


def test_everything_that_is_missing_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "网页/a.jsonl", json.dumps({"text": "一段文字"}, ensure_ascii=False))
    write(tmp_path / "books/b.pdf", "%PDF")
    words = write(tmp_path / "words.txt", "词\n")
    steps = [
        {"op": "keywords", "lists": [words, "没有.txt"], "count": {"max": 0}},
        {"op": "classifier", "name": "ads", "path": str(tmp_path / "model"), "label": "ad"},
        {"op": "perplexity", "model": "pretrain:"},
        {"op": "decontaminate", "tests": ["none.jsonl"]},
        {"op": "tokens"},
    ]
    sources = [{"path": "网页"}, {"path": "books"}, {"path": "nowhere"}]
    trains = {"data": {"sources": [{"path": "网页"}, {"path": "clean:documents"}, {"path": "gone.jsonl"}]}}
    shape = {"vocab_size": 300, "hidden_size": 32, "layers": 1, "heads": 2, "mlp_size": 64}
    cleaning = {"sources": sources, "steps": steps, "executor": "ray"}
    learned = {"train": {"vocab_size": 300}}
    asked = recipe(tmp_path, clean=cleaning, pretrain=trains, model=shape, tokenizer=learned)
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    said = [str(problem) for problem in missing(asked)]
    wanted = ("nowhere", "gone.jsonl", "没有.txt", "step classifier:ads", "none.jsonl", "step tokens needs a tokenizer",
              "danlu[pdf]", "datatrove is not installed", "ray is not installed")  # fmt: skip
    for name in wanted:
        assert sum(name in one for one in said) == 1, (name, said)
    assert len(said) == len(wanted), said
    assert not examine(asked)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("没有.txt", "danlu[pdf]")) and not (tmp_path / "out").exists()


def test_what_is_there_and_what_a_stage_makes_is_not_missing(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", json.dumps({"text": "一段文字"}))
    lists = {"op": "keywords", "lists": ["danlu:boilerplate"], "count": {"max": 1}}
    steps = [{"op": "perplexity", "model": "pretrain:"}, lists]
    asked = recipe(tmp_path, clean={"sources": [{"path": "a.jsonl"}], "steps": steps})
    assert missing(asked) == []
    assert examine(recipe(tmp_path, clean={"sources": [{"path": "a.jsonl"}]}))
