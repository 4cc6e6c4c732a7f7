"""The engine under cleaning: what is measured again and what is not, whom a step looks at, what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyarrow import parquet

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.tasks import Task, Workers
from danlu.text.clean import clean
from danlu.text.cleaning.columns import ColumnReader, column_writer
from danlu.text.cleaning.gathering import Gathering
from danlu.text.kernels import Batch
from danlu.text.ops.contents import text_of, with_text
from danlu.text.ops.operator import Operator
from danlu.text.ops.table import OPERATORS
from danlu.text.readers import read_rows
from danlu.text.records import Record
from danlu.text.settings import CleanSettings
from danlu.text.steps.base import StepSettings

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer")  # of a step that only these tests know

STEPS: list[dict[str, Any]] = [
    {"op": "normalise"},
    {"op": "length", "min": 3, "languages": ["zh"]},
    {"op": "language"},
    {"op": "exact_dedup"},
]
TEXTS = [
    "一句话。",
    "二",
    "One sentence here.",
    "一句话。",
    "one  \n",
    "长" * 50,
    "一句话。\r\n" + "\r\n" * 50,
    "Ещё одна строка текста",
]


def corpus(folder: Path, texts: list[str], files: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(texts) // files)
    for number in range(files):
        rows = [{"text": text, "n": n} for n, text in enumerate(texts)][number * size : (number + 1) * size]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(raw: Path, out: Path, steps: list[Any], **how: Any) -> None:
    plain = [step for step in steps if isinstance(step, dict)]
    source = {"path": str(raw), "name": "raw"}
    settings = check(CleanSettings, {"sources": [source], "steps": plain, "workers": 1, "task_bytes": 1, **how})
    if len(plain) < len(steps):  # steps of these tests
        settings = settings.model_copy(update={"steps": steps})
    clean(settings, out)


def kept(out: Path) -> list[str]:
    return [row.fields["text"] for file in sorted(out.glob("documents/raw/*")) for row in read_rows(file)]


def dropped(out: Path) -> dict[int, str]:
    rows = [row.fields for file in sorted(out.glob("dropped/documents/raw/*")) for row in read_rows(file)]
    return {row["meta"]["n"]: f"{row['step']}: {row['reason']}" for row in rows}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tasks that ran, in this list."""
    names: list[str] = []
    here = Workers._here

    def noting(self: Workers, tasks: list[Task]) -> Iterator[tuple[int, Any]]:
        names.extend(task.name for task in tasks)
        return here(self, tasks)

    monkeypatch.setattr(Workers, "_here", noting)
    return names


def test_a_step_looks_at_its_languages_only_and_may_come_twice(tmp_path: Path) -> None:
    steps = [
        {"op": "normalise"},
        {"op": "length", "min": 3, "languages": ["zh"]},
        {"op": "length", "min": 10, "languages": ["en", "mixed"]},
    ]
    run(
        corpus(tmp_path / "raw", ["二", "一二三", "one", "One sentence here.", "Я", "it is 是"]),
        tmp_path / "out",
        steps,
    )
    assert kept(tmp_path / "out") == ["一二三", "One sentence here.", "Я"]
    by_step = json.loads((tmp_path / "out" / "statistics.json").read_text())["documents/raw"]
    assert [(step["step"], step["number"]) for step in by_step] == [
        ("normalise", 0),
        ("language", None),
        ("length", 1),
        ("length", 2),
    ]
    assert [step["rows"] for step in by_step] == [6, 6, 2, 3]
    with pytest.raises(UserError, match="comes twice for documents in en"):
        run(tmp_path / "raw", tmp_path / "out", [{"op": "length"}, {"op": "length", "languages": ["en"]}])


def test_a_change_for_one_language_leaves_the_others_alone(tmp_path: Path) -> None:
    run(corpus(tmp_path / "raw", ["一二三 ", "one "]), tmp_path / "out", [{"op": "normalise", "languages": ["zh"]}])
    assert kept(tmp_path / "out") == ["一二三", "one "]


def test_of_equals_the_first_that_the_steps_before_leave_is_kept(tmp_path: Path) -> None:
    steps = [{"op": "length", "max": 20}, {"op": "normalise"}, {"op": "exact_dedup"}]
    run(corpus(tmp_path / "raw", ["a" + "\r\n" * 20, "b", "a", "a"]), tmp_path / "out", steps)
    assert kept(tmp_path / "out") == ["b", "a"]
    assert dropped(tmp_path / "out") == {0: "length: too long", 3: "exact_dedup: duplicate"}
    rows = [row.fields for row in read_rows(tmp_path / "out" / "dropped")]
    assert rows[-1]["value"] == {"twin": "0.jsonl:3", "source": "raw"}


def test_a_dropped_record_is_as_the_step_saw_it(tmp_path: Path) -> None:
    run(
        corpus(tmp_path / "raw", ["abcdef ", "abc "]),
        tmp_path / "out",
        [{"op": "length", "max": 5}, {"op": "normalise"}],
    )
    assert kept(tmp_path / "out") == ["abc"]
    assert [row.fields["text"] for row in read_rows(tmp_path / "out" / "dropped")] == ["abcdef "]


def test_what_a_change_leaves_empty_is_dropped_before_anybody_judges_it(tmp_path: Path) -> None:
    run(
        corpus(tmp_path / "raw", ["<br>", "<p>\u200c</p>", "x"]),
        tmp_path / "out",
        [{"op": "html"}, {"op": "exact_dedup"}],
    )
    assert dropped(tmp_path / "out") == dict.fromkeys((0, 1), "html: empty text")


@pytest.mark.parametrize(
    ("steps", "again"),
    [
        (STEPS, set()),
        ([STEPS[0], {**STEPS[1], "min": 2}, *STEPS[2:]], set()),
        ([*STEPS[:2], {"op": "language", "keep": ["zh"]}, STEPS[3]], set()),
        ([STEPS[0], STEPS[3]], set()),
        ([*STEPS[:3]], set()),
        ([{"op": "normalise", "nfc": False}, *STEPS[1:]], {"normalise", "length", "language", "exact_dedup"}),
        ([*STEPS[1:]], {"length", "language", "exact_dedup"}),
        ([*STEPS, {"op": "lines"}], {"lines"}),
    ],
)
def test_only_what_is_missing_is_measured(tmp_path: Path, ran: list[str], steps: list[Any], again: set[str]) -> None:
    raw, out = corpus(tmp_path / "raw", TEXTS, 2), tmp_path / "out"
    run(raw, out, STEPS)
    before = set(out.glob("columns/**/*.parquet"))
    del ran[:]
    run(raw, out, steps)
    fresh = {file.name.partition("-")[0] for file in set(out.glob("columns/**/*.parquet")) - before}
    assert fresh == again
    assert [name for name in ran if name.startswith("measure")] == (
        [f"measure documents/raw/part-{number:05d}" for number in range(4)] if again else []
    )
    run(raw, tmp_path / "fresh", steps)
    assert kept(out) == kept(tmp_path / "fresh") and dropped(out) == dropped(tmp_path / "fresh")
    del ran[:]
    run(raw, out, STEPS)
    assert not [name for name in ran if name.startswith("measure")]


def test_changed_code_is_run_again_with_what_sees_its_changes(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = corpus(tmp_path / "raw", TEXTS), tmp_path / "out"
    for op, wanted in (("length", {"length"}), ("normalise", {"normalise", "length", "language", "exact_dedup"})):
        run(raw, out, STEPS)
        before = set(out.glob("columns/**/*.parquet"))
        monkeypatch.setitem(OPERATORS, op, replace(OPERATORS[op], version=99))
        run(raw, out, STEPS)
        assert {file.name.partition("-")[0] for file in set(out.glob("columns/**/*.parquet")) - before} == wanted
        monkeypatch.undo()


def test_changed_files_are_measured_again_and_others_are_not(tmp_path: Path, ran: list[str]) -> None:
    raw, out = corpus(tmp_path / "raw", TEXTS, 2), tmp_path / "out"
    run(raw, out, STEPS)
    corpus(raw, [*TEXTS[:4], *TEXTS[:4]], 2)
    del ran[:]
    run(raw, out, STEPS)
    assert [name for name in ran if name.startswith("measure")] == [
        "measure documents/raw/part-00002",
        "measure documents/raw/part-00003",
    ]
    run(raw, tmp_path / "fresh", STEPS)
    assert kept(out) == kept(tmp_path / "fresh")


class MarkStep(StepSettings):
    """Finds records that begin alike, in whatever part they are, and takes what they share off all but the first."""

    gathers = frozenset({"letters"})
    op: Literal["mark"] = "mark"
    letters: int = 2
    min: int = 0


def gather_marks(gathering: Gathering, step: MarkStep) -> list[Path]:
    out = gathering.folder / "marks.parquet"
    gathering.run(
        [
            Task(
                "marks", find_marks, {"parts": gathering.parts, "letters": step.letters, "out": str(out)}, outputs=[out]
            )
        ],
        "mark",
    )
    return [out]


def find_marks(parts: list[Any], letters: int, out: str) -> None:
    first: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    for part in parts:
        for rows, _ in part.columns(["start"]):
            named = dict(zip(rows.tolist(), part.origins(rows), strict=True))
            for row, text in part.texts(rows):
                if text[:letters] in first:
                    found.append({"task": part.number, "row": row, "like": first[text[:letters]]})
                first.setdefault(text[:letters], named[row])
    schema = pa.schema([("task", pa.int32()), ("row", pa.int64()), ("like", pa.string())])
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(found, schema), out)


MARK = Operator(
    measure=lambda records, step: {"start": [text_of(record)[:1] for record in records]},
    gather=gather_marks,
    judge=lambda values, step: ("like", values["like"]) if values["like"] and values["start"] == "x" else None,
    edit=lambda record, values, step: with_text(record, lambda text: text[step.letters :]),
)


def test_a_step_that_edits_what_it_found(tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "mark", MARK)
    texts = ["ab one", "ac", "ab two", "xy1", "xy2", "ab", "toolong" * 9, "to", "ac"]
    raw, out = corpus(tmp_path / "raw", texts, 3), tmp_path / "out"
    steps: list[Any] = [{"op": "length", "max": 40}, MarkStep(), {"op": "exact_dedup"}, {"op": "lines"}]
    checked = check(CleanSettings, {"sources": [{"path": str(raw)}], "steps": [steps[0], *steps[2:]]}).steps
    run(raw, out, [checked[0], MarkStep(), *checked[1:]])
    assert kept(out) == ["ab one", "ac", " two", "xy1", "to"]
    assert dropped(out) == {4: "mark: like", 5: "mark: empty text", 6: "length: too long", 8: "mark: empty text"}
    by_step = json.loads((out / "statistics.json").read_text())["documents/raw"]
    edit = by_step[2]
    assert (edit["step"], edit["edits"], edit["rows"], edit["changed"]) == ("mark", True, 7, 3)
    assert edit["characters_in"] - edit["characters_out"] == 6
    del ran[:]
    run(raw, out, [checked[0], MarkStep(min=1), *checked[1:]])
    assert not [name for name in ran if name.startswith(("measure", "marks"))]
    run(raw, out, [checked[0], MarkStep(letters=1), *checked[1:]])
    assert kept(out)[:3] == ["ab one", "c", "b two"]
    assert {name for name in ran if name.startswith("mark")} == {"marks"}
    assert len(list(out.glob("findings/documents/mark-*"))) == 1


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst", ".parquet", ".json", ".txt", ".csv"])
def test_given_rows_are_read_again_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    texts = [f"第 {n} 行 text " + "\u200b" * (n % 3) for n in range(600)]
    seen: dict[int, str] = {}

    def look(gathering: Gathering, step: Any) -> list[Path]:
        for part in gathering.parts:
            rows = np.sort(np.random.default_rng(0).choice(part.rows, part.rows // 7, replace=False))
            for _, text in part.texts(rows):
                seen[int(text.split()[1])] = text
            assert part.origins(rows) == [
                f"raw{suffix}:{int(t.split()[1]) + 1 + (suffix == '.csv')}" for _, t in part.texts(rows)
            ]
            everything = [row for rows, _ in part.columns([]) for row in rows]
            assert everything == list(range(part.rows))
        return []

    monkeypatch.setitem(OPERATORS, "mark", Operator(gather=look))
    write(tmp_path / f"raw{suffix}", texts)
    checked = check(CleanSettings, {"sources": [{"path": "x"}], "steps": [{"op": "normalise"}]}).steps
    settings = check(
        CleanSettings,
        {"sources": [{"path": str(tmp_path / f"raw{suffix}"), "document": "line"}], "workers": 1, "task_bytes": 20_000},
    ).model_copy(update={"steps": [*checked, MarkStep()]})
    clean(settings, tmp_path / "out")
    assert len(seen) >= 80 and all(text == f"第 {n} 行 text" for n, text in seen.items())


def write(path: Path, texts: list[str]) -> None:
    import csv

    import zstandard

    rows = [{"text": text} for text in texts]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([["text"], *([text] for text in texts)])
    elif path.suffix == ".txt":
        path.write_text("\n".join(texts))
    else:
        content = {".jsonl": lines, ".zst": zstandard.compress(lines), ".json": json.dumps(rows).encode()}
        path.write_bytes(content[path.suffix])


def test_a_step_gets_its_function_from_above(tmp_path: Path) -> None:
    raw = corpus(tmp_path / "raw", ["一二三四", "one two three"])
    steps = check(CleanSettings, {"sources": [{"path": str(raw)}], "steps": [{"op": "tokens"}], "workers": 1})
    with pytest.raises(UserError, match="tokens needs a model or tokenizer"):
        clean(steps, tmp_path / "out")


def test_records_keep_company_in_a_batch_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators share work on a batch by its identity."""
    batches: list[list[Record]] = []

    def measure(records: list[Record], step: Any) -> dict[str, Any]:
        batches.append(records)
        return {"number": [0] * len(records)}

    for name in ("length", "lines", "words"):
        monkeypatch.setitem(OPERATORS, name, Operator(measure=measure))
    raw = corpus(tmp_path / "raw", ["a ", "b"])
    run(raw, tmp_path / "out", [{"op": "length"}, {"op": "lines"}, {"op": "normalise"}, {"op": "words"}])
    assert batches[0] is batches[1] and batches[2] is not batches[0]
    assert all(isinstance(batch, Batch) for batch in batches)


def test_statistics_add_up(tmp_path: Path) -> None:
    raw, out = corpus(tmp_path / "raw", TEXTS, 3), tmp_path / "out"
    run(raw, out, STEPS)
    manifest = json.loads((out / "manifest.json").read_text())
    by_step = json.loads((out / "statistics.json").read_text())["documents/raw"]
    rows = len(TEXTS)
    for step in by_step:
        lost = sum(entry["count"] for entry in step["dropped"].values())
        assert step["rows"] <= rows
        rows -= lost
    assert rows == len(kept(out)) == manifest["sources"]["documents/raw"]["kept"]
    assert by_step[0]["characters_in"] == sum(map(len, TEXTS))
    assert by_step[0]["changed"] == 2
    assert by_step[-1]["characters_out"] == sum(map(len, kept(out)))
    length = next(step for step in by_step if step["step"] == "length")["columns"]["characters"]
    chinese = sorted(len(text.strip()) for text in TEXTS if "。" in text or text[0] in "二长")
    assert [low for _, _, low, _, count, *_ in length["bins"] for _ in range(count)] == chinese
    assert all(characters == low * count for _, _, low, high, count, characters, _ in length["bins"] if low == high)


@hypothesis_settings(deadline=None, max_examples=30)
@given(st.lists(st.none() | st.integers(0, 9), max_size=60), st.integers(1, 9), st.sets(st.integers(0, 59)))
def test_columns_give_any_rising_rows(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None], size: int, rows: set[int]
) -> None:
    path = str(tmp_path_factory.mktemp("columns") / "a.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danlu.text.cleaning.columns.STRETCH", 7)
        with column_writer(path) as writer:
            for start in range(0, max(1, len(values)), size):
                writer.add({"value": values[start : start + size]})
            writer.close()
        wanted = np.array(sorted(row for row in rows if row < len(values)), np.int64)
        reader, found = ColumnReader(path), []
        for part in np.array_split(wanted, 3):
            found += reader.take(part)["value"].to_pylist()
    assert found == [values[row] for row in wanted]
