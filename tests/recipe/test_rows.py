"""Whoever runs a stage that reads rows is told on the terminal what became of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe


def recipe_of(folder: Path, **more: Any) -> Recipe:
    shape = {"family": "qwen3", "vocab_size": 320, "hidden_size": 32, "layers": 1, "heads": 2, "mlp_size": 32}
    content = {"name": "rows", "out": str(folder / "out"), "data": str(folder), "model": shape, **more}
    return check(Recipe, content)


def write(path: Path, texts: list[str], broken: int = 0) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts] + ['{"text": broken'] * broken
    path.write_text("\n".join(lines) + "\n", "utf-8")


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


def test_what_each_stage_did_is_told_in_the_recipes_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.jsonl", ["Ship 1 sailed.", "海上的船出发了。"])

    def told(language: str, least: int) -> list[str]:
        cleaning = {"sources": [{"path": "a.jsonl"}], "steps": [{"op": "length", "min": least}], "workers": 1}
        run_recipe(recipe_of(tmp_path, clean=cleaning, language=language), until="clean")
        lines = capsys.readouterr().out.splitlines()
        return [re.sub(r"\d+s|/.*", "…", line) for line in lines if not line.startswith("  ")]

    assert told("zh", 3) == ["数据报告：…", "✓ clean：完成，用时 …"]
    assert told("zh", 3) == ["· clean：没有变化", "没有要做的：每个阶段都是最新的"]
    assert told("en", 3) == ["· clean: unchanged", "nothing to do: every stage is up to date"]
    assert told("zh", 4)[1:] == ["数据报告：…", "✓ clean：完成，用时 …；其他设置的结果留在 …"]
    assert told("zh", 3) == ["↺ clean：已恢复；其他设置的结果留在 …"]
    assert told("en", 4) == ["↺ clean: restored; results of other settings kept in …"]


def test_clean_says_what_became_of_each_sources_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.jsonl", [f"Ship {number} sailed." for number in range(60)], broken=40)
    write(tmp_path / "b.jsonl", ["海上的船出发了。"] * 8 + ["", "x"])
    sources = [{"path": "a.jsonl"}, {"path": "b.jsonl"}]
    steps = [{"op": "length", "min": 3}, {"op": "exact_dedup"}]
    cleaning = {"sources": sources, "steps": steps, "workers": 1}
    run_recipe(recipe_of(tmp_path, clean=cleaning), until="clean")
    assert said(capsys) == [
        "  documents/a: 100 rows read, 60 kept; 40 bad: broken JSON",
        "  documents/b: 10 rows read, 1 kept; 7 exact_dedup: duplicate, 1 bad: empty text, 1 length: too short",
    ]
    run_recipe(recipe_of(tmp_path, clean=cleaning), until="clean")
    assert said(capsys) == []
    run_recipe(recipe_of(tmp_path, clean={**cleaning, "steps": steps[1:]}, language="zh"), until="clean")
    assert said(capsys) == [
        "  documents/a：读 100 行，留 60 条；坏行：JSON 有误 40 条",
        "  documents/b：读 10 行，留 2 条；完全去重：重复 7 条，坏行：文本为空 1 条",
    ]


def test_pack_says_it_of_files_that_go_straight_into_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "harbour mountain winter table garden window"
    write(tmp_path / "raw.jsonl", [f"{words} {word} {words}" for word in words.split()], broken=4)
    long = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "long " * 90}]
    talks = [{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}] * 3
    rows = [*talks, {"messages": long}, {"messages": long[:1]}, {"messages": long[:1]}]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "raw.jsonl"}

    def pack(raw: float, language: str = "en") -> list[str]:
        data = {"workers": 1, "held_out": 0}
        of_raw = {**data, "sources": [source], "length": 32, "held_out": raw}
        of_talks = {**data, "sources": [{"path": "talks.jsonl"}], "length": 64}
        tokenizer = {"train": {"sources": [source], "vocab_size": 300}}
        stages = {"pretrain": {"data": of_raw, "train": {"steps": 1}}, "sft": {"data": of_talks, "train": {"steps": 1}}}
        run_recipe(recipe_of(tmp_path, tokenizer=tokenizer, language=language, **stages), until="pack")
        return said(capsys)

    assert pack(0.001)[0] == "  raw: 10 rows read, 6 kept and none held out (held_out: 0.001); 4 bad: broken JSON"
    assert pack(0.002, "zh") == ["  raw：读 10 行，留 6 条，没有一条留出（held_out：0.002）；坏行：JSON 有误 4 条"]
    assert pack(0.9) == ["  raw: 10 rows read, 6 kept; 4 bad: broken JSON"]
    shutil.rmtree(tmp_path / "out")
    assert pack(0) == [
        "  raw: 10 rows read, 6 kept; 4 bad: broken JSON",
        "  talks: 6 rows read, 3 kept; 2 bad: conversation without an answer, "
        "1 dropped: a single turn is longer than the window",
    ]


def test_only_the_most_frequent_reasons_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["[1]"] * 6 + ["{"] * 5 + ['{"text": ""}'] * 4 + ['{"text": "sea"}'] * 4 + ['{"other": 1}'] * 2 + ["NaN"]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, '{"text": "a long way over the sea"}']) + "\n")
    source = {"path": "a.jsonl", "kind": "document", "max_bad_share": 1}
    cleaning = {"sources": [source], "steps": [{"op": "exact_dedup"}, {"op": "length", "min": 9}], "workers": 1}
    run_recipe(recipe_of(tmp_path, clean=cleaning), until="clean")
    manifest = tmp_path / "out" / "clean" / "manifest.json"
    assert said(capsys) == [
        "  documents/a: 23 rows read, 1 kept; 7 bad: not an object, 5 bad: broken JSON, 4 bad: empty text, "
        f"3 exact_dedup: duplicate, 3 for 2 other reasons ({manifest})"
    ]
