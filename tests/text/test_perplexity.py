"""The step perplexity: bounds by language, thresholds that measure nothing again, and a key that is the model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.report.data.panels import panels_of
from danlu.report.data.report import write_data_report
from danlu.text.clean import clean
from danlu.text.cleaning.life import find_records, life_of
from danlu.text.cleaning.trail import read_trail
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings

SCORER = """
import numpy as np


def by_marks(model, window=None):
    more = 10 * model.endswith("other")
    return lambda texts: np.array([text.count("!") + text.count("！") + more for text in texts], float)
"""
CHINESE, ENGLISH = "炉火正旺，这一天的天气也很好", "The fire in the furnace is bright"
TEXTS = [f"{text}{mark * number}" for text, mark in ((CHINESE, "！"), (ENGLISH, "!")) for number in range(6)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Cleans by a step and gives the texts that stay, the dropped rows and whether anything was measured."""
    (tmp_path / "marks.py").write_text(SCORER)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def run(*steps: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]], bool]:
        settings = {"sources": [{"path": str(tmp_path / "raw.jsonl")}], "steps": list(steps), "workers": 1}
        ledger = tmp_path / "out" / "tasks" / "measure" / "tasks.jsonl"
        before = ledger.read_text() if ledger.exists() else ""
        scorers: dict[str, Any] = {"perplexity": {"function": "marks:by_marks", "arguments": {}}}
        clean(check(CleanSettings, settings), tmp_path / "out", scorers)
        found = {name: list(read_rows(tmp_path / "out" / name)) for name in ("documents", "dropped")}
        kept = [row.fields["text"] for row in found["documents"]]
        return kept, [row.fields for row in found["dropped"]], (ledger.read_text() if ledger.exists() else "") != before

    return run


def marks(texts: list[str], start: str) -> list[int]:
    return [text.count("!") + text.count("！") for text in texts if text.startswith(start)]


def test_each_language_has_its_bounds_on_both_sides(model: Path, cleaned: Any) -> None:
    step = {"op": "perplexity", "model": str(model), "shortest": 5, "zh": {"min": 1, "max": 2}, "en": {"max": 4}}
    kept, dropped, _ = cleaned(step)
    assert marks(kept, CHINESE) == [1, 2] and marks(kept, ENGLISH) == [0, 1, 2, 3, 4]
    assert {(row["reason"], row["value"]) for row in dropped} == {
        ("bits per byte too low", 0.0), *(("bits per byte too high", float(value)) for value in (3, 4, 5)),
    }  # fmt: skip


def test_thresholds_move_and_nothing_is_measured_again(model: Path, cleaned: Any) -> None:
    step: dict[str, Any] = {"op": "perplexity", "model": str(model), "shortest": 5, "zh": {"max": 2}}
    assert cleaned(step)[2]
    kept, _, measured = cleaned({**step, "zh": {"max": 1}, "en": {"max": 3}})
    assert marks(kept, CHINESE) == [0, 1] and marks(kept, ENGLISH) == [0, 1, 2, 3] and not measured
    assert len(cleaned({**step, "shortest": 100})[0]) == len(TEXTS)
    assert cleaned({**step, "window": 64})[2] and cleaned({**step, "characters": 6})[2]


def test_what_is_in_the_model_counts_and_not_where_it_lies(model: Path, cleaned: Any) -> None:
    step: dict[str, Any] = {"op": "perplexity", "shortest": 5, "zh": {"max": 2}}
    assert cleaned({**step, "model": str(model)})[2]
    moved = shutil.copytree(model, model.parent / "moved")
    assert not cleaned({**step, "model": str(moved)})[2]
    (moved / "model.safetensors").write_bytes(b"other weights")
    assert cleaned({**step, "model": str(moved)})[2]


def test_only_the_beginning_of_a_record_is_read(model: Path, cleaned: Any) -> None:
    step = {
        "op": "perplexity",
        "model": str(model),
        "shortest": 5,
        "characters": 20,
        "zh": {"max": 2},
        "en": {"max": 0},
    }
    kept, _, _ = cleaned(step)
    assert marks(kept, CHINESE) == [0, 1, 2] and marks(kept, ENGLISH) == [0, 1, 2, 3, 4, 5]


def test_each_language_may_have_its_own_model(model: Path, cleaned: Any) -> None:
    other = shutil.copytree(model, model.parent / "other")
    one = {"op": "perplexity", "model": str(model), "shortest": 5, "languages": ["zh"], "zh": {"max": 2}}
    two = {"op": "perplexity", "model": str(other), "shortest": 5, "languages": ["en"], "en": {"max": 13}}
    (other / "model.safetensors").write_bytes(b"of English")
    kept, dropped, _ = cleaned(one, two)
    assert marks(kept, CHINESE) == [0, 1, 2] and marks(kept, ENGLISH) == [0, 1, 2, 3]
    assert sorted(row["value"] for row in dropped) == [3, 4, 5, 14, 15]


def test_short_records_are_not_measured_and_stay(model: Path, cleaned: Any) -> None:
    step = {"op": "perplexity", "model": str(model), "shortest": len(CHINESE) + 3, "zh": {"max": 0}, "en": {"max": 0}}
    kept, dropped, _ = cleaned(step)
    assert marks(kept, CHINESE) == [0, 1, 2] and marks(kept, ENGLISH) == [0] and len(dropped) == 8


def test_the_report_has_a_threshold_for_each_language(tmp_path: Path, model: Path, cleaned: Any) -> None:
    cleaned({"op": "perplexity", "model": str(model), "shortest": 5, "zh": {"min": 1, "max": 2}, "en": {"max": 4}})
    trail = read_trail(tmp_path / "out")
    panels = {panel.language: panel for panel in panels_of(trail) if panel.step.op == "perplexity"}
    assert {name: panel.setting for name, panel in panels.items()} == {"zh": "zh", "en": "en"}
    for name, (least, most) in {"zh": (1, 2), "en": (None, 4)}.items():
        panel = panels[name]
        assert panel.bounds is not None and (panel.bounds.min, panel.bounds.max) == (least, most)
        [cells] = [group.cells for group in panel.groups if group.sort == "source"]
        assert sum(cell[0] for cell in cells) == 6
        assert sum(cell[0] for cell in cells[panel.low : panel.high]) == (2 if name == "zh" else 5)
    page = write_data_report(tmp_path / "out", "zh").read_text("utf-8")
    assert "每字节比特数, 中文" in page and "困惑度" in page
    told = [life_of(trail, *found) for name in ("raw.jsonl:1", "raw.jsonl:12") for found in find_records(trail, name)]
    assert [life.events[-1].bounds for life in told] == [{"bits_per_byte": (1, 2)}, {"bits_per_byte": (None, 4)}]


def test_what_is_missing_is_said_before_any_work(tmp_path: Path, cleaned: Any) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        cleaned({"op": "perplexity", "model": str(tmp_path / "absent")})
    settings = {"sources": [{"path": "absent.jsonl"}], "steps": [{"op": "perplexity", "model": "m"}]}
    with pytest.raises(UserError, match="perplexity needs a model"):
        clean(check(CleanSettings, settings), tmp_path / "other")
    assert not (tmp_path / "other").exists()
