"""`danlu clean train-classifier` as a user calls it: what it learns, tells and refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from danlu.cli import app
from danlu.config import check
from danlu.evaluate.classification import average_precision, by_label, by_threshold, threshold_for
from danlu.ledger.errors import UserError
from danlu.text.classifiers.hashed import HashedClassifier
from danlu.text.clean import clean
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings

GOOD = ["图书馆", "weather", "公园", "river", "学校", "window", "历史", "garden", "医生", "bread", "河流", "music"]
BAD = [
    "加微信",
    "discount",
    "领红包",
    "click",
    "优惠券",
    "viagra",
    "点击链接",
    "casino",
    "免费送",
    "winner",
    "包邮",
    "cheap",
]


def rows(number: int, seed: int) -> list[dict[str, Any]]:
    """Sentences in both languages, good and bad in turns, that share most of their words."""
    chance = random.Random(seed)
    shared = [f"词{n}" if n % 2 else f"word{'abcdefgh'[n % 8]}" for n in range(40)]
    found = []
    for place in range(number):
        own = BAD if place % 2 else GOOD
        words = [*chance.choices(shared, k=6), *chance.choices(own, k=3), str(place)]
        chance.shuffle(words)
        found.append({"text": "，".join(words), "label": "bad" if place % 2 else "good"})
    return found


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), "utf-8")
    return path


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["clean", "train-classifier", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_it_learns_and_what_it_prints_can_be_copied_into_a_recipe(tmp_path: Path) -> None:
    out = tmp_path / "model"
    told = call(out, write(tmp_path / "rows.jsonl", rows(600, 0)), "--held-out", 0.2)
    fresh = rows(100, 1)
    model = HashedClassifier.load(out)
    assert model.labels == ["bad", "good"]
    guessed = model.probabilities([row["text"] for row in fresh]).argmax(1)
    assert np.mean([model.labels[g] == row["label"] for g, row in zip(guessed, fresh, strict=True)]) > 0.95

    printed = next(line for line in told.splitlines() if line.startswith('  - {op: "classifier"'))
    section = {"sources": [{"path": str(write(tmp_path / "fresh.jsonl", fresh))}], "steps": yaml.safe_load(printed)}
    clean(check(CleanSettings, section), tmp_path / "cleaned")
    dropped = [row.fields for file in (tmp_path / "cleaned/dropped").rglob("*.zst") for row in read_rows(file)]
    right = [row["meta"]["label"] == "bad" for row in dropped]
    assert sum(right) >= 45 and np.mean(right) >= 0.95

    learned = json.loads((out / "training.json").read_text("utf-8"))
    assert learned["learned"] + learned["held_out"] == 600
    page = (out / "report.html").read_text("utf-8")
    assert "average precision" in page and "http://" not in page


def test_the_same_texts_and_seed_give_the_same_weights_in_any_order(tmp_path: Path) -> None:
    content = rows(200, 0)
    call(tmp_path / "a", write(tmp_path / "a.jsonl", content), "--held-out", 0.2)
    random.Random(3).shuffle(content)
    call(tmp_path / "b", write(tmp_path / "b.jsonl", content), "--held-out", 0.2)
    call(tmp_path / "c", tmp_path / "b.jsonl", "--held-out", 0.2, "--seed", 1)
    a, b, c = (HashedClassifier.load(tmp_path / name).weights for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_good_and_bad_sources_and_what_a_clean_dropped(tmp_path: Path) -> None:
    content = rows(200, 0)
    raw = write(tmp_path / "raw.jsonl", [{"text": row["text"]} for row in content])
    step = {"op": "keywords", "lists": [str(tmp_path / "words.txt")], "count": {"max": 0}}
    (tmp_path / "words.txt").write_text("\n".join(BAD), "utf-8")
    clean(check(CleanSettings, {"sources": [{"path": str(raw)}], "steps": [step]}), tmp_path / "run")
    kept, dropped = tmp_path / "run/documents", tmp_path / "run/dropped/documents"
    call(tmp_path / "model", "--good", kept, "--bad", dropped, "--held-out", 0.2)
    assert HashedClassifier.load(tmp_path / "model").labels == ["bad", "good"]


def test_csv_and_fasttext_lines_with_other_names_and_a_test_file(tmp_path: Path) -> None:
    content = rows(120, 0)
    lines = [f'"{row["text"]}",{row["label"]}' for row in content]
    (tmp_path / "rows.csv").write_text("\n".join(["body,kind", *lines]), "utf-8")
    test = [f"__label__{row['label']} {row['text']}" for row in rows(60, 2)]
    (tmp_path / "test.txt").write_text("\n".join(test), "utf-8")
    told = call(
        tmp_path / "m", tmp_path / "rows.csv", "--test", tmp_path / "test.txt", "--text", "body", "--label", "kind"
    )
    assert "bad:" not in told
    assert json.loads((tmp_path / "m/training.json").read_text("utf-8"))["held_out"] == 60


def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path) -> None:
    content = rows(200, 0)
    wrong: list[dict[str, Any]] = [
        {"text": "", "label": "good"},
        {"text": "没有标签"},
        {"text": "x", "label": 0.5},
        {"text": content[0]["text"], "label": "good"},
        {"text": content[2]["text"], "label": "bad"},
    ]
    path = write(tmp_path / "rows.jsonl", [*content, *wrong])
    with path.open("a", encoding="utf-8") as handle:
        handle.write("{broken\n")
    told = call(tmp_path / "m", path, "--held-out", 0.2)
    for reason in (
        "bad: no text in text: 1",
        "bad: no label in label: 2",
        "left out: same text: 1",
        "bad: broken JSON: 1",
    ):
        assert reason in told
    assert "left out: same text, other label: 1" in told and "rows.jsonl:205" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "no labelled text"),
        ([{"text": f"好{n}", "label": "good"} for n in range(50)], "only the label good"),
        ([*rows(100, 0), {"text": "少", "label": "rare"}], "the label rare has"),
        ([{"text": f"文{n}", "label": str(n)} for n in range(300)], "300 labels"),
    ],
)
def test_too_little_to_learn_from_is_told_and_nothing_written(
    content: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        call(tmp_path / "m", write(tmp_path / "rows.jsonl", content), "--held-out", 0.2)
    assert not (tmp_path / "m").exists()


def test_wrong_calls_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(20, 0))
    with pytest.raises(UserError, match="nothing to tell apart"):
        call(tmp_path / "m", "--good", path)
    with pytest.raises(UserError, match="this folder exists"):
        call(tmp_path, path)
    with pytest.raises(UserError, match="between 0 and 1"):
        call(tmp_path / "m", path, "--held-out", 1.5)


SCORES = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(SCORES, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_thresholds_against_counting(pairs: list[tuple[bool, float]], precision: float) -> None:
    right, scores = np.array([one for one, _ in pairs]), np.array([score for _, score in pairs])

    def counted(threshold: float) -> tuple[float, float]:
        found = [one for one, score in pairs if score > threshold]
        return (sum(found) / len(found) if found else 0.0), sum(found) / max(1, sum(right))

    for threshold, found in by_threshold(right, scores).items():
        assert (found.precision, found.recall) == pytest.approx(counted(threshold))
    possible = [counted(threshold) for threshold in (-0.1, 0.05, 0.2, 0.3, 0.7, 0.95)]
    most = max((recall for exact, recall in possible[1:] if exact >= precision and recall), default=None)
    best = threshold_for(right, scores, precision)
    if best is not None:
        assert best[1].precision >= precision
        assert most is None or best[1].recall >= most
    else:
        assert most is None


def test_measures_against_scikit_learns_definition() -> None:
    random = np.random.default_rng(0)
    truth, raw = random.integers(0, 3, 200), random.random((200, 3))
    probabilities = raw / raw.sum(1, keepdims=True)
    for place, found in enumerate(by_label(truth, probabilities)):
        guessed = probabilities.argmax(1) == place
        both = np.sum(guessed & (truth == place))
        assert found.precision == pytest.approx(both / guessed.sum())
        assert found.recall == pytest.approx(both / np.sum(truth == place))
        assert found.f1 == pytest.approx(2 * both / (guessed.sum() + np.sum(truth == place)))
    right, scores = truth == 0, probabilities[:, 0]
    order = np.argsort(-scores)
    ranks = np.flatnonzero(right[order]) + 1
    assert average_precision(right, scores) == pytest.approx(np.mean(np.arange(1, len(ranks) + 1) / ranks))
