"""The closing summary: every word in the recipe's language, none cut where the terminal is narrow."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from danlu.config import check
from danlu.recipe.settings import Recipe
from danlu.recipe.summary import print_summary

BITS = {"bits_per_byte": 1.25, "tag": {"region=四川": {"bits_per_byte": 1.5}}}
SHARE = {"accuracy": 0.5, "stderr": 0.1}
SCORES = {
    "bits_per_byte": {"documents": BITS, "我的集合": BITS},
    "exact_match": {"kind": {"relation": {"zh": SHARE, "en": SHARE}}},
    "ceval": {**SHARE, "chance": 0.25},
    "repetition": {"loop_rate": 0.25, "ends": 0.75},
}


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", ("每字节比特（留出：文档）", "留出：我的集合", "完全匹配，关系（中文）", "复读率", "报告：")),
        ("en", ("bits per byte, held-out documents", "exact match, relation (zh)", "loop rate", "Report: ")),
    ],
)
@pytest.mark.parametrize("width", [56, 120])
def test_no_word_is_cut_or_in_another_language(
    tmp_path: Path, language: str, expected: tuple[str, ...], width: int
) -> None:
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "results.json").write_text(json.dumps({"pretrain": SCORES, "sft": SCORES}))
    page = tmp_path / ("很长的文件夹" * 12) / "index.html"
    console = Console(file=io.StringIO(), width=width)
    print_summary(check(Recipe, {"name": "r", "out": str(tmp_path), "language": language}), page, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in said and str(page) in said, "a path can be copied whole"
    if width > 100:
        assert all(words in said for words in expected)
        assert ("relation" in said) == (language == "en")
