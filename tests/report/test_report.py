"""The report of a whole run: one page that needs nothing else, in both languages; PNG and summary beside the run."""

from __future__ import annotations

import json
import re
import shutil
import string
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from danlu.ledger.errors import UserError
from danlu.ledger.manifest import name_run
from danlu.ledger.metrics import Metric, MetricsWriter
from danlu.report import flow
from danlu.report.charts import MOST_POINTS, Chart, Line, averaged
from danlu.report.report import report
from danlu.report.runs import load_run
from danlu.report.scores import answers
from danlu.report.words import FINDINGS, WORDS, clock, number, say

COLUMNS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "epoch", "tokens", "consumed", "held_out_loss")
EVIL = "<img src=x onerror=alert(1)> 绿豆糕，绿豆糕，"


def share(value: float, n: int = 40) -> dict[str, Any]:
    return {"accuracy": value, "stderr": 0.05, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "n": n}


def bits(value: float) -> dict[str, Any]:
    return {"bits_per_byte": value, "perplexity": 9.5, "tokens": 900, "bytes": 3000, "documents": 12}


def scores(accuracy: float, loops: float) -> dict[str, Any]:
    loop = {"loop_rate": loops, "loop_rate_characters": loops, "ends": 1 - loops, "n": 44}
    errors = {f"{name}_stderr": 0.03 for name in ("loop_rate", "loop_rate_characters", "ends")}
    more = {"seq_rep_4": 0.2, "seq_rep_4_characters": 0.3, "mean_tokens": 12.5}
    return {
        "exact_match": {
            "form": "chat",
            **share(accuracy),
            "kind": {"relation": {"en": share(accuracy), "zh": share(accuracy)}},
        },
        "repetition": {**loop, **errors, **more, "language": {"zh": {**loop, **errors, **more}}},
        "bits_per_byte": {
            "documents": {**bits(1.5), "language": {"en": bits(1.4), "zh": bits(1.6)}, "source": {"a": bits(1.5)}}
        },
        "ceval": {
            "accuracy": 0.26,
            "stderr": 0.01,
            "chance": 0.25,
            "at_chance": True,
            "n": 1346,
            "shots": 5,
            "cut": 0,
            "shots_dropped": 7,
            "merged": 0,
            "macro": 0.27,
            "macro_stderr": 0.01,
            "subject": {},
        },
        "side_by_side": {
            "form": "chat",
            "answers": [{"prompt": "绿豆糕", "answer": EVIL, "ended": False, "loops": True}],
        },
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "炼丹"
    writer = MetricsWriter(
        folder / "sft" / "metrics.jsonl", {name: Metric("", "", "") for name in (*COLUMNS, "source")}
    )
    for step in range(1, 101):
        numbers = {"loss": 4 / step**0.3, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens_per_second": 1e4}
        writer.write(step, **numbers, epoch=step / 50, tokens=step * 1000, consumed=step * 8)
        if step % 20 == 0:
            writer.write(step, source="conversations", held_out_loss=9.0)
            writer.write(step, source="all", held_out_loss=4 / step**0.3 + 0.1)
    writer.close()
    checkpoint = folder / "sft" / "checkpoints" / "step-000000100"
    checkpoint.mkdir(parents=True)
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, checkpoint / "model.safetensors")
    (folder / "sft" / "stage.json").write_text('{"key": "k", "finished": true, "seconds": 62.5}')
    packed = {
        "inputs": [{"file": "a.jsonl", "bytes": 1234567, "sha256": "ab"}],
        "train": {
            "examples": 700,
            "tokens": 1000,
            "tokens_by_role": {"user": 400, "assistant": 500, "none": 100},
            "tokens_in_loss_by_role": {"assistant": 500},
            "cuts": {"oldest turns left out": 3},
        },
        "sources": {
            "s": {
                "counts": {
                    "rows": {"count": 800, "examples": []},
                    "bad: no answer": {"count": 2, "examples": ["a.jsonl:4"]},
                }
            }
        },
    }
    (folder / "pack" / "sft").mkdir(parents=True)
    (folder / "pack" / "sft" / "manifest.json").write_text(json.dumps(packed))
    (folder / "evaluate").mkdir()
    results = {"sft": scores(0.4, 0.3), "dpo": scores(0.95, 0.05)}
    asked = {"prompt": "何为茶？", "answer": "茶。", "ended": True, "loops": False, "source": "alpaca_zh"}
    for values in results.values():
        values["side_by_side"]["answers"].append({**asked, "reference": f"一种饮料。{EVIL}"})
    (folder / "evaluate" / "results.json").write_text(json.dumps(results))
    return folder


class Page(HTMLParser):
    """Tags that stand open, addresses that a browser would fetch, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_holds_everything_and_needs_nothing(run: Path, tmp_path: Path, language: Any) -> None:
    path = report([run], tmp_path / "report", language)
    html = path.read_text("utf-8")
    page = Page(html)
    assert page.open == []
    assert all(address.startswith("#") for address in page.addresses)
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert "<img" not in html
    assert EVIL in page.text
    assert page.text.count(f"一种饮料。{EVIL}") == 1, "what the data answer stands once beside all models"
    assert "alpaca_zh" in page.text
    for text in ("1.500 ", "95.0%", "30.0%", "26.0% ± 1.0", "oldest turns left out", "bad: no answer", "17"):
        assert text.strip() in page.text
    for key in ("at_chance", "loops", "evaluation", "inspection", "side_by_side", "reference"):
        assert say(key, language) in page.text
    assert ("留出集" in page.text) == (language == "zh")
    assert html.count('<svg class="chart"') == 4


def test_png_and_summary_lie_beside_the_run(run: Path, tmp_path: Path) -> None:
    report([run], tmp_path / "report")
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    sft = summary["stages"]["sft"]
    assert (sft["steps"], sft["seconds"], sft["parameters"]) == (100, 62.5, 17)
    assert sft["last"]["loss"] == pytest.approx(4 / 100**0.3)
    assert sft["lowest_held_out_loss"] == pytest.approx(4 / 100**0.3 + 0.1)
    assert sft["last"]["held_out_loss/conversations"] == 9.0
    assert summary["scores"]["dpo"]["exact_match"]["accuracy"] == 0.95


def test_a_run_is_laid_over_a_published_log(run: Path, tmp_path: Path, shared_data: Path) -> None:
    log = shared_data / "reference" / "mini_qwen_logs" / "output_dpo.log"
    other = log.with_name("output_dpo1.log")
    html = report([run, log, other], tmp_path / "report").read_text("utf-8")
    assert "output_dpo1" in html
    assert html.count('viewBox="0 0 1180') == 1  # the two preference runs; the fine-tuning has no peer
    assert (tmp_path / "report" / "output_dpo.png").is_file()
    assert json.loads((tmp_path / "report" / "output_dpo1.json").read_text("utf-8"))["stages"]["output_dpo1"][
        "findings"
    ]


def test_what_was_dropped_is_told_with_its_places(run: Path) -> None:
    manifest = load_run(run).stages[0].manifest
    assert flow.dropped(manifest) == [("oldest turns left out", 3, ""), ("bad: no answer", 2, "a.jsonl:4")]
    assert flow.dropped({"cut_or_dropped": {"prompt cut": 4}}) == [("prompt cut", 4, "")]
    assert flow.taken(manifest, None) == [("bytes", 1234567), ("rows", 800)]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage here"):
        report([tmp_path], tmp_path / "report")
    with pytest.raises(UserError, match="no such file"):
        report([tmp_path / "absent"], tmp_path / "report")
    with pytest.raises(UserError, match="no run"):
        report([], tmp_path / "report")
    with pytest.raises(UserError, match="write --language zh"):
        report([Path("language=zh")], tmp_path / "report")


def test_both_languages_say_the_same_with_the_same_values() -> None:
    for english, chinese in WORDS.values():
        assert english and chinese
    for english, chinese in FINDINGS.values():
        fields = [
            sorted(name for _, name, _, _ in string.Formatter().parse(text) if name) for text in (english, chinese)
        ]
        assert fields[0] == fields[1]
        assert re.search(r"[\u4e00-\u9fff]", chinese)


def test_thinning_keeps_every_extreme() -> None:
    random = np.random.default_rng(0)
    values = random.normal(2, 0.1, 50_000)
    values[31_313] = 9.0
    line = Line("x", [(float(step), float(value)) for step, value in enumerate(values)], 0)
    data = re.search(r'data-lines="([^"]*)"', str(Chart("t", [line]).svg()))
    assert data
    points = json.loads(data.group(1).replace("&#34;", '"'))[0]["points"]
    assert len(points) <= MOST_POINTS
    assert max(value for _, value in points) == 9.0
    assert min(value for _, value in points) == pytest.approx(values.min(), rel=1e-4)
    assert averaged([(1.0, 2.0)] * 100)[-1] == (1.0, pytest.approx(2.0))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (1234.0, "1,234"),
        (12345.6, "12,345.6"),
        (998810624, "998.8M"),
        (5e-7, "5e-07"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


def test_durations() -> None:
    assert [clock(seconds, "en") for seconds in (4.25, 59, 185, 7800)] == ["4.2 s", "59 s", "3 min 05 s", "2 h 10 min"]
    assert clock(185, "zh") == "3 分 05 秒"


def test_lines_of_one_chart_are_told_apart_and_dashes_are_explained_where_they_are(run: Path, tmp_path: Path) -> None:
    html = report([run], tmp_path / "report").read_text("utf-8")
    legend = re.findall(r'<i class="([^"]+)"></i>(?:training|running average|held out) ', html)
    assert len(set(legend)) == 3, "the loss, its average, the held-out loss"
    assert len({colour.split()[1] for colour in legend}) == 3
    assert html.count('class="mark"') and say("how_epochs", "en") in html
    metrics = run / "sft" / "metrics.jsonl"
    metrics.write_text(re.sub(r'"epoch": ?[\d.]+', '"epoch": 0.5', metrics.read_text("utf-8")), "utf-8")
    html = report([run], tmp_path / "report").read_text("utf-8")
    assert not html.count('class="mark"') and say("how_epochs", "en") not in html


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("\n" * 62 + "s", "↵ × 62 s"),
        ("\n" * 64, "↵ × 64"),
        (" \n\t" * 3, "␣↵⇥ × 9"),
        ("", "(nothing)"),
        (" 甲\n\n    乙\n", "甲\n\n    乙"),
        ("x" + " " * 200 + "y", "x ␣ × 200 y"),
    ],
)
def test_an_answer_of_blanks_is_shown_as_what_it_is(answer: str, shown: str) -> None:
    item = {"prompt": "?", "answer": answer, "ended": True, "loops": False}
    found = answers({"sft": {"side_by_side": {"form": "chat", "answers": [item]}}}, "en")
    assert found and found["rows"][0]["answers"][0]["text"] == shown


def test_the_page_is_called_as_the_recipe_calls_the_run(run: Path, tmp_path: Path) -> None:
    def title(*runs: Path) -> str:
        return re.findall("<h1>(.*)</h1>", report([*runs], tmp_path / "report", "zh").read_text("utf-8"))[0]

    assert title(run) == "炼丹", "no recipe made this folder"
    assert name_run(run, "我的") and not name_run(run, "我的")
    assert title(run) == "我的"
    assert json.loads((run / "summary.json").read_text("utf-8"))["run"] == "我的"
    assert name_run(run, "你的") and title(run) == "你的"
    other = tmp_path / "runs" / "b"
    shutil.copytree(run, other)
    assert title(run, other) == f"你的 ({run}) · 你的 ({other})", "one recipe, two folders"
    assert json.loads((other / "summary.json").read_text("utf-8"))["run"] == "你的"
    (run / "run.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        title(run)
