"""The report of a cleaned corpus: exact thresholds, bounded and harmless examples, both languages, one file."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cleaned import MENU, PHONE, QUESTION, SCRIPT, STEPS, cleaned, texts
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import name_run
from danlu.report.data.panels import panel_of
from danlu.report.data.passages import changes, covered
from danlu.report.data.report import write_data_report
from danlu.report.report import report
from danlu.text.cleaning.tally import Histogram
from danlu.text.cleaning.trail import read_trail
from danlu.text.settings import CleanSettings
from danlu.text.steps.base import Range
from danlu.text.steps.privacy import PrivacyStep
from danlu.text.steps.statistics import LinesStep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cleaned(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, str]:
    return {language: write_data_report(folder, language).read_text("utf-8") for language in ("en", "zh")}


class Elements(HTMLParser):
    """The elements of a page, their attributes, and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside in ("script", "style") else self.words).append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(next(text for text in self.scripts if text.startswith('{"panels"')))
        return content


def test_it_needs_no_other_file_and_nothing_of_the_data_runs(pages: dict[str, str]) -> None:
    for page in pages.values():
        found = Elements(page)
        assert not {"img", "link", "iframe", "object"} & {tag for tag, _ in found.tags}
        assert sum(tag == "script" for tag, _ in found.tags) == 2
        assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
        links = [attributes.get(name) for _, attributes in found.tags for name in ("src", "href")]
        assert all(link is None or link.startswith("#") for link in links)
        assert "window.hacked" in found.text + "".join(found.scripts) and SCRIPT in str(
            found.data["examples"] or ""
        ).replace("\\'", "'")


def test_every_part_shows_what_was_planted(pages: dict[str, str]) -> None:
    found = Elements(pages["en"])
    for section in (
        "flow", "by_step", "by_source", "thresholds", "dropped_examples", "twins", "frequent", "contamination",
        "personal", "changed_examples", "not_read",
    ):  # fmt: skip
        assert ("section", {"id": section}) in found.tags
    assert MENU in found.text and "quiz.jsonl:1" in found.text and QUESTION[:12] in found.text
    assert {"del", "ins"} <= {tag for tag, _ in found.tags}
    assert PHONE not in pages["en"] and "1••••••••••" in found.text
    assert "broken JSON" in found.text and "near duplicate" in found.text


def test_the_chinese_page_is_chinese(pages: dict[str, str]) -> None:
    said = Elements(pages["zh"]).text
    for words in ("数据报告", "近似重复", "测试集去污染", "坏行：JSON 有误", "手机号", "口语顺滑", "平均词长", "对话"):
        assert words in said
    for words in ("near duplicate", "too short", "broken JSON", "Thresholds", "records"):
        assert words not in said


def test_it_is_the_same_every_time(folder: Path, pages: dict[str, str]) -> None:
    again = write_data_report(folder, "zh").read_text("utf-8")
    assert re.sub(r"生成于 [\d: -]+", "", again) == re.sub(r"生成于 [\d: -]+", "", pages["zh"])


def test_it_stays_small_and_shows_other_sources_together(tmp_path: Path) -> None:
    from danlu.text.clean import clean

    raw = tmp_path / "raw"
    raw.mkdir()
    for source in range(30):
        rows = [{"text": "".join(f"第{m * source}段长文字，{m}。" for m in range(9 * n + 9))} for n in range(12)]
        (raw / f"s{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"path": str(file)} for file in sorted(raw.iterdir())]
    steps = [{"op": op} for op in ("language", "length", "characters", "lines", "words")]
    clean(check(CleanSettings, {"sources": sources, "steps": steps, "workers": 1}), tmp_path / "out")
    page = write_data_report(tmp_path / "out")
    assert page.stat().st_size < 1_500_000
    data = Elements(page.read_text("utf-8")).data
    names = [group["name"] for group in data["panels"][0]["groups"] if group["sort"] == "source"]
    assert len(names) == 13
    assert len(data["examples"]) < 600 and max(len(example["text"]) for example in data["examples"]) < 300


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-10, 10, allow_subnormal=False) | st.integers(0, 90).map(float), min_size=1, max_size=80),
    st.floats(-2, 50, allow_subnormal=False),
    st.floats(0, 40, allow_subnormal=False),
)
def test_what_a_threshold_keeps_is_exact_wherever_it_stands(values: list[float], low: float, width: float) -> None:
    step = LinesStep(average=Range(min=low, max=low + width))
    found = {}
    for number, part in enumerate(np.array_split(np.array(values), 2)):
        histogram = Histogram(step.average)
        histogram.add(part, np.full(len(part), 3), np.zeros(len(part), np.int64))
        found[f"documents/{number}\nzh"] = histogram.as_dict()
    panel = panel_of(step, 0, "average", found)
    sources = [group for group in panel.groups if group.sort == "source"]
    rows = [sum(group.cells[cell][0] for group in sources) for cell in range(len(panel.lowest))]
    for cells, end in enumerate(panel.mins):
        assert sum(rows[cells:]) == sum(value >= (-math.inf if end is None else end) for value in values)
    for cells, end in enumerate(panel.maxs):
        assert sum(rows[:cells]) == sum(value <= (math.inf if end is None else end) for value in values)
    assert panel.mins[panel.low] == low and panel.maxs[panel.high] == low + width
    assert sum(rows[panel.low : panel.high]) == sum(low <= value <= low + width for value in values)


def test_thresholds_are_short_numbers(folder: Path) -> None:
    from danlu.report.data.panels import panels_of

    for panel in panels_of(read_trail(folder)):
        ends = [end for end in [*panel.mins, *panel.maxs] if end is not None]
        assert all(len(f"{end:.12g}") <= 9 for end in ends)
        if panel.step.op == "length":
            assert all(end == int(end) for end in ends)


def test_a_threshold_below_all_values_is_shown_as_it_is_set(tmp_path: Path) -> None:
    page = write_data_report(cleaned(tmp_path, [{"op": "length", "min": 1}, {"op": "lines"}]))
    panels = Elements(page.read_text("utf-8")).data["panels"]
    assert (panels[0]["low"], panels[0]["mins"][0], panels[0]["maxs"][-1]) == (0, 1, None)
    lines = next(panel for panel in panels if panel["name"] == "duplicate lines")
    assert lines["present"] == {"max": 0.6} and lines["maxs"][lines["high"]] == 0.6 and lines["mins"][0] is None


MOVE = """
<script>
const found = { before: document.getElementById("yaml").value, low: [], high: [] };
const named = (box) => box.querySelector("h4").textContent === "characters";
const box = [...document.querySelectorAll(".panel")].find(named);
const cells = (row) => [...row.cells].map((cell) => cell.textContent);
const read = () => [...box.querySelectorAll("tr")].slice(1).map(cells);
const text = (place) => box.querySelector(place).textContent;
for (const side of ["low", "high"]) {
  const input = box.querySelector(`.${side} input`);
  const start = input.value;
  for (let place = 0; place <= +input.max; place++) {
    input.value = place;
    input.dispatchEvent(new Event("input"));
    found[side].push([text(`.${side} output`), read(), text(".around")]);
  }
  input.value = start;
  input.dispatchEvent(new Event("input"));
}
found.again = document.getElementById("yaml").value;
const low = box.querySelector(".low input");
low.value = 9;
low.dispatchEvent(new Event("input"));
found.threshold = box.querySelector(".low output").textContent;
found.kept = read()[0][1];
found.moved = document.getElementById("yaml").value;
found.hacked = window.hacked ?? null;
document.body.replaceChildren(document.createElement("pre"));
document.body.firstChild.textContent = JSON.stringify(found);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_sliders_count_as_python_does_and_write_settings_back(
    folder: Path, pages: dict[str, str], tmp_path: Path
) -> None:
    assert CHROMIUM
    page = tmp_path / "moved.html"
    page.write_text(pages["en"].replace("</body>", MOVE + "</body>"))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
    ]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    words = Elements(dom).text
    found = json.loads(words[words.index('{"before"') : words.rindex("}") + 1])
    lengths = {name: [len(text) for text in rows] for name, rows in texts().items()}
    assert found["hacked"] is None
    for side, holds in (("low", lambda value, end: value >= end), ("high", lambda value, end: value <= end)):
        other = (lambda value: value <= 4000) if side == "low" else (lambda value: value >= 12)
        seen = set()
        for shown, table, near in found[side]:
            end = (0 if side == "low" else math.inf) if shown == "no bound" else float(shown)
            for name, count, _, characters, _ in table:
                if name in lengths:
                    kept = [length for length in lengths[name] if holds(length, end) and other(length)]
                    assert (count, characters) == (f"{len(kept):,}", f"{sum(kept):,}")
            seen.add(shown)
            assert "Just kept" in near
        assert len(seen) > 10
    assert found["again"] == found["before"]
    steps = yaml.safe_load(found["before"])["steps"]
    told = [{**step, "tests": [{"path": t} for t in step["tests"]]} if "tests" in step else step for step in STEPS]
    raw = str(folder.parent / "raw" / "tests" / "quiz.jsonl")
    assert steps == json.loads(json.dumps(told).replace("TESTS", raw))
    moved = yaml.safe_load(found["moved"])["steps"]
    settings = check(CleanSettings, {"sources": [{"path": "raw"}], "steps": moved})
    length = next(step for step in settings.steps if step.op == "length")
    assert length.min == float(found["threshold"]) and length.max == 4000
    assert [step for step in moved if step["op"] != "length"] == [step for step in steps if step["op"] != "length"]


def test_personal_data_is_covered() -> None:
    text, places = covered(f"电话{PHONE}，邮箱 li.lei@sohu.com。2024年5月6日。", [PrivacyStep()])
    assert text == "电话1••••••••••，邮箱 l•.•••@••••.•••。2024年5月6日。"
    assert {datum for datum, *_ in places} == {"mobile", "email"}


def test_changes_keep_a_little_of_what_stands_around() -> None:
    before = "开头" + "甲" * 400 + "旧" + "乙" * 400 + "a new word" + "丙" * 9000
    edits = changes(before, before.replace("旧", "新").replace("new", "good"))
    assert [edit.sign for edit in edits] == ["=", "-", "+", "=", "-", "+", "="]
    assert [edit.text for edit in edits if edit.sign != "="] == ["旧", "新", "new", "good"]
    assert sum(len(edit.text) for edit in edits) < 300


def test_what_shows_nothing_is_shown() -> None:
    gone = "".join(edit.text for edit in changes("a\r\nb\u200bc", "a b c") if edit.sign == "-")
    assert "‹000D›↵" in gone and "‹200B›" in gone
    assert [edit.text for edit in changes("a b  ", "a b")] == ["a b", "␣␣"]


def test_a_folder_where_nothing_was_cleaned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished clean stage here"):
        write_data_report(tmp_path)
    with pytest.raises(UserError, match="nothing was cleaned here"):
        read_trail(tmp_path)


def test_the_report_of_the_run_links_to_it_and_says_reasons_in_chinese(folder: Path, pages: dict[str, str]) -> None:
    page = report([folder.parent], folder.parent / "report", "zh").read_text("utf-8")
    found = Elements(page)
    assert ("a", {"href": "../clean/report.html"}) in found.tags
    assert (
        "完全去重：重复" in found.text
        and "坏行：JSON 有误" in found.text
        and "duplicate" not in found.text.split("{")[0]
    )


def test_a_run_can_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "moved" / "clean")
    trail = read_trail(tmp_path / "moved" / "clean")
    assert all(Path(part.verdicts).is_relative_to(tmp_path / "moved") for part in trail.parts)
    assert write_data_report(tmp_path / "moved" / "clean").is_file()


def test_it_is_called_as_its_run_or_as_its_folder(tmp_path: Path) -> None:
    folder = cleaned(tmp_path, [{"op": "normalise"}])

    def title() -> str:
        return re.findall("<h1>(.*)</h1>", write_data_report(folder).read_text("utf-8"))[0]

    assert title() == "clean"
    name_run(folder.parent, "我的")
    assert title() == "我的"


def test_it_begins_with_rows_and_those_that_were_broken(folder: Path, pages: dict[str, str]) -> None:
    # 51 papers, 35 notes and a broken line, 12 talks
    for language, broken in (("en", ("Rows read", "Broken rows", "1.0%: broken JSON 1")),
                             ("zh", ("读入行数", "坏行", "1.0%：JSON 有误 1"))):  # fmt: skip
        tiles = re.findall(r'<div class="tile([^"]*)"><dt>(.*?)</dt>(.*?)</div>', pages[language], re.DOTALL)
        shown = [(style, title, Elements(body).text.split("\n")) for style, title, body in tiles]
        rows = sum(map(len, texts().values())) + 1 + 12
        assert shown[0][:2] == ("", broken[0]) and str(rows) in shown[0][2]
        assert shown[1][:2] == (" wrong", broken[1]) and {"1", broken[2]} <= set(shown[1][2])
    by_source = Elements(pages["zh"].partition('id="by_source"')[2].partition("</table>")[0])
    assert "坏行" in by_source.text and f"{100 / 36:.1f}%" in by_source.text


def test_steps_of_one_sort_are_told_apart_and_names_are_whole(tmp_path: Path) -> None:
    pair = [{"op": "neighbours", "languages": ["en"]}, {"op": "neighbours", "languages": ["zh", "mixed"]}]
    steps = [{"op": "html"}, {"op": "markdown"}, {"op": "language"}, *pair, {"op": "words", "languages": ["other"]}]
    folder = cleaned(tmp_path, steps)
    page = write_data_report(folder, "zh").read_text("utf-8")
    names = re.findall(r'<text class="name"[^>]*>(.*?)</text>', page)
    assert names[:5] == ["1 去 HTML", "2 去 Markdown 杂项", "3 语言", "4 相邻字母与汉字", "5 相邻字母与汉字"]
    table = page.partition('id="by_step"')[2].partition("</table>")[0]
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in table.split("<tr>")[2:]]
    assert rows[3][:4] == ["4", "相邻字母与汉字", "neighbours", "英文"]
    assert rows[4][:4] == ["5", "相邻字母与汉字", "neighbours", "中文、中英混合"]
    assert rows[5][4:] == ["0", "0", "0", "–", "0.0"], "a step that saw nothing keeps no share of it"


def test_details_of_the_chinese_page_are_chinese(pages: dict[str, str]) -> None:
    said = Elements(pages["zh"]).text
    assert "对应记录 notes.jsonl:" in said and "来源 notes" in said and "（第 2 个字符处缺少双引号括起的键名）" in said
    assert not re.search(r"\btwin\b|\bsource\b|at character", said)
    assert "twin notes.jsonl:" in Elements(pages["en"]).text
