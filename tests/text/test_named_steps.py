"""Steps of one sort that look at the same records, told apart by names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.report.data.report import write_data_report
from danlu.text.classifiers.features import bags
from danlu.text.classifiers.hashed import HashedClassifier, Shape
from danlu.text.clean import clean
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings

BITS = 16


def run(folder: Path, texts: list[str], steps: list[Any], **how: Any) -> Path:
    rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (folder / "raw.jsonl").write_text(rows, "utf-8")
    settings = {"sources": [{"path": str(folder / "raw.jsonl")}], "steps": steps, "workers": 1, **how}
    clean(check(CleanSettings, settings), folder / "out")
    return folder / "out"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row.fields for row in read_rows(folder)]


def by_word(folder: Path, label: str, word: str) -> str:
    """A classifier that is sure of its label where the word stands."""
    weights = np.zeros((1, 1 << BITS), np.float32)
    weights[0, bags([word], 1, BITS)[0][0][0]] = 100.0
    folder.mkdir()
    HashedClassifier(Shape(labels=["none", label], bits=BITS), weights, np.array([-4], np.float32)).save(folder)
    return str(folder)


def keywords(folder: Path) -> list[dict[str, Any]]:
    (folder / "banned.txt").write_text("赌场\ncasino\n", "utf-8")
    (folder / "adverts.txt").write_text("加微信\nbuy now\n", "utf-8")
    return [
        {"op": "keywords", "lists": [str(folder / "banned.txt")], "count": {"max": 0}},
        {"op": "keywords", "name": "广告", "lists": [str(folder / "adverts.txt")], "count": {"max": 1}},
    ]


def test_two_lists_on_one_record(tmp_path: Path) -> None:
    texts = ["去赌场，加微信", "加微信，加微信，buy now", "请加微信详谈", "A plain sentence.", "The casino, buy now."]
    out = run(tmp_path, texts, keywords(tmp_path), keep_scores=["keywords:广告", "keywords.density"])
    kept = rows_of(out / "documents")
    assert [row["text"] for row in kept] == texts[2:4]
    assert [row["meta"]["keywords:广告.count"] for row in kept] == [1, 0]
    assert "keywords.density" in kept[0]["meta"] and "keywords.count" not in kept[0]["meta"]
    assert [(row["step"], row["reason"], row["value"]["words"]) for row in rows_of(out / "dropped")] == [
        ("keywords", "count too high", "赌场"),
        ("keywords:广告", "count too high", "加微信 ×2, buy now"),
        ("keywords", "count too high", "casino"),
    ]
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    wanted = {"keywords: count too high", "keywords:广告: count too high"}
    assert set(manifest["sources"]["documents/raw"]["dropped"]) == wanted


@pytest.mark.parametrize("language", ["en", "zh"])
def test_two_classifiers_on_one_record(tmp_path: Path, language: Any) -> None:
    spam, rude = by_word(tmp_path / "a", "spam", "奖"), by_word(tmp_path / "b", "rude", "fool")
    steps = [
        {"op": "classifier", "name": "spam", "path": spam, "label": "spam", "score": {"max": 0.5}},
        {"op": "classifier", "name": "rude", "path": rude, "label": "rude", "score": {"max": 0.5}},
    ]
    texts = ["恭喜中奖！", "You fool.", "今天很好。", "A fine day 🙂"]
    out = run(tmp_path, texts, steps, keep_scores=["classifier:spam.score", "classifier:rude"])
    kept = rows_of(out / "documents")
    assert [row["text"] for row in kept] == texts[2:]
    assert all(row["meta"][f"classifier:{name}.score"] < 0.5 for row in kept for name in ("spam", "rude"))
    dropped = {row["text"]: row["step"] for row in rows_of(out / "dropped")}
    assert dropped == {"恭喜中奖！": "classifier:spam", "You fool.": "classifier:rude"}
    write_data_report(out, language)
    page = (out / "report.html").read_text("utf-8")
    names = ("classifier:spam", "classifier:rude") if language == "en" else ("分类器:spam", "分类器:rude")
    assert all(name in page for name in names)
    assert '"name":"rude"' in page.replace(": ", ":"), "the settings that are written back have the name"


def test_what_a_name_may_be(tmp_path: Path) -> None:
    steps = keywords(tmp_path)
    with pytest.raises(UserError, match="`languages`, or one of them a `name`"):
        run(tmp_path, ["a"], [{**step, "name": "one"} for step in steps])
    with pytest.raises(UserError, match="no step 'keywords:adverts'"):
        run(tmp_path, ["a"], steps, keep_scores=["keywords:adverts.count"])
    with pytest.raises(UserError, match="pattern"):
        run(tmp_path, ["a"], [{**steps[1], "name": "a.b"}])
