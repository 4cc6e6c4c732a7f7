"""Cleaning gives what one loop over all records would give, however the work is cut and wherever it is broken off."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from danlu.config import check
from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import sha256_file
from danlu.text.clean import clean
from danlu.text.ops import length
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings, SourceSettings
from danlu.text.source import read_records

STEPS = [
    {"op": "normalise"},
    {"op": "length", "min": 8, "kinds": ["document"]},
    {"op": "language", "keep": ["zh", "en"]},
    {"op": "exact_dedup"},
]
ROWS = 400


def document(n: int) -> dict[str, Any]:
    """Every seventh is short, every fifth says what its neighbour says, every eleventh is Russian."""
    if n % 11 == 3:
        return {"text": f"Сегодня хорошая погода, и мы идём гулять {n}", "n": n}
    if n % 7 == 2:
        return {"text": f"短{n}", "n": n}
    m = n - n % 5 if n % 5 < 2 else n
    text = f"第{m}篇文章：春眠不觉晓。" if m % 2 else f"Article number {m} is about the weather in spring."
    return {"text": text * (1 + m % 3) + "\r\n" * (n % 5), "n": n}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """One corpus in four forms, and conversations."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [document(n) for n in range(ROWS)]
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
    (folder / "a.jsonl").write_bytes(b"".join(lines[:150]) + b"{broken\n")
    parquet.write_table(pa.Table.from_pylist(rows[150:250]), folder / "b.parquet", row_group_size=20)
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[250:300])))
    (folder / "d.jsonl.zst").write_bytes(zstandard.compress(b"".join(lines[300:])))
    turns = [
        {"messages": [{"role": "user", "content": f"问题 {n % 30}?"}, {"role": "assistant", "content": "好"}]}
        for n in range(60)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    return folder


def settings(raw: Path, steps: list[dict[str, Any]] = STEPS, **how: Any) -> CleanSettings:
    sources = [
        {"path": str(raw), "name": "words", "where": ["n != 17"]},
        {"path": str(raw.parent / "chat.jsonl")},
        {"path": str(raw / "d.jsonl.zst"), "name": "again", "limit": 40},
    ]
    return check(CleanSettings, {"sources": sources, "steps": steps, "workers": 1, **how})


def written(out: Path) -> dict[str, list[Any]]:
    """All rows under kept and dropped, by folder."""
    found: dict[str, list[Any]] = {}
    for file in sorted(out.rglob("part-*.jsonl.zst")):
        found.setdefault(str(file.parent.relative_to(out)), []).extend(row.fields for row in read_rows(file))
    return found


def naive() -> tuple[list[str], dict[int, str]]:
    """Texts kept of the source `words`, and why the others go, in one plain loop."""
    kept, dropped, seen = [], {}, set()
    for n in range(ROWS):
        text = document(n)["text"].rstrip()
        if n == 17:
            continue
        if len(text) < 8:
            dropped[n] = "too short"
        elif "Сегодня" in text:
            dropped[n] = "language other"
        elif text in seen:
            dropped[n] = "duplicate"
        else:
            kept.append(text)
        seen.add(text)
    return kept, dropped


@pytest.mark.parametrize(("task_bytes", "workers"), [(1 << 26, 1), (2_000, 1), (2_000, 2)])
def test_it_equals_one_loop_however_the_work_is_cut(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_bytes: int, workers: int
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("danlu.text.clean.ALONE_BYTES", 10_000)
    clean(settings(raw, task_bytes=task_bytes, workers=workers), out)
    rows = written(out)
    kept, dropped = naive()
    assert [row["text"] for row in rows["documents/words"]] == kept
    assert {row["meta"]["n"]: row["reason"] for row in rows["dropped/documents/words"]} == dropped
    assert rows["documents/again"] == []
    assert {row["reason"] for row in rows["dropped/documents/again"]} == {"duplicate", "too short", "language other"}
    assert len(rows["dropped/documents/again"]) == 40
    assert len(rows["conversations/chat"]) == len(rows["dropped/conversations/chat"]) == 30


def test_every_drop_has_its_value_and_every_count_is_in_the_manifest(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    clean(settings(raw), out)
    rows = written(out)["dropped/documents/words"]
    by_reason = {row["reason"]: row for row in rows}
    assert by_reason["too short"]["value"] == len(by_reason["too short"]["text"])
    assert by_reason["language other"]["value"]["detected"] == "ru"
    twin = by_reason["duplicate"]
    assert twin["value"]["source"] == "words"
    file, line = twin["value"]["twin"].split(":")
    first = next(row for row in read_rows(raw / file) if row.line == int(line))
    assert first.fields["text"].rstrip() == twin["text"] and twin["meta"]["origin"] != twin["value"]["twin"]
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    kept, dropped = naive()
    words = manifest["sources"]["documents/words"]
    assert words["kept"] == len(kept) == sum(words["languages"].values())
    assert sum(entry["count"] for entry in words["dropped"].values()) == len(dropped)
    assert words["read"]["bad: broken JSON"] == {
        "count": 1,
        "examples": [f"{raw}/a.jsonl:151 (Expecting property name enclosed in double quotes at character 2)"],
    }
    assert words["text_bytes"] == sum(len(text.encode()) for text in kept)
    assert all(sha256_file(out / part["file"]) == part["sha256"] for part in manifest["parts"])
    assert {entry["file"]: entry["sha256"] for entry in manifest["inputs"]} == {
        str(file): sha256_file(file) for file in [*raw.iterdir(), raw.parent / "chat.jsonl"]
    }


def test_what_is_clean_reads_back_by_kind(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    clean(settings(raw, task_bytes=2_000), out)
    documents = list(read_records(SourceSettings(path=str(out)), "document", Counts()))
    conversations = list(read_records(SourceSettings(path=str(out / "conversations")), "conversation", Counts()))
    assert [record.source for record in documents] == ["words"] * len(naive()[0])
    assert len(conversations) == 30
    assert [record.meta["n"] for record in documents] == sorted(record.meta["n"] for record in documents)


def test_a_second_call_does_nothing_and_a_threshold_moves_without_measuring(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    clean(settings(raw, task_bytes=2_000), out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("part-*")}
    monkeypatch.setattr(length, "characters_of", lambda record: pytest.fail("measured again"))
    clean(settings(raw, task_bytes=2_000), out)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("part-*")} == before
    longer = [{**step, **({"min": 30} if step["op"] == "length" else {})} for step in STEPS]
    clean(settings(raw, longer, task_bytes=2_000), out)
    assert min(len(row["text"]) for row in written(out)["documents/words"]) >= 30


def test_files_of_earlier_settings_do_not_stay(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    clean(settings(raw, task_bytes=2_000), out)
    clean(settings(raw), out)
    assert [row["text"] for row in written(out)["documents/words"]] == naive()[0]


RUN = """
import sys
from pathlib import Path
from danlu.config import load_settings
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings
clean(load_settings(CleanSettings, Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_killed_anywhere_it_goes_on_to_the_same_end(raw: Path, tmp_path: Path) -> None:
    chosen, config, out = settings(raw, task_bytes=500), tmp_path / "clean.yaml", tmp_path / "out"
    clean(chosen, tmp_path / "whole")
    config.write_text(chosen.model_dump_json())
    for wanted in ("measure", "decide", "write"):  # the ledger in which the first tasks must stand when the kill comes
        process = subprocess.Popen([sys.executable, "-c", RUN, str(config), str(out)], stderr=subprocess.DEVNULL)
        ledger = out / "tasks" / wanted / "tasks.jsonl"
        while process.poll() is None and not (ledger.is_file() and ledger.stat().st_size):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "manifest.json").exists()
    clean(chosen, out)
    assert written(out) == written(tmp_path / "whole")
    assert not [file for file in out.rglob("*") if "partial" in file.name]


def test_sources_that_cannot_be_told_apart_or_read_are_refused(raw: Path, tmp_path: Path) -> None:
    def run(*sources: dict[str, Any]) -> None:
        clean(check(CleanSettings, {"sources": list(sources), "workers": 1}), tmp_path / "out")

    with pytest.raises(UserError, match="2 sources of documents are called raw"):
        run({"path": str(raw)}, {"path": str(raw)})
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="no row here fits"):
        run({"path": str(tmp_path / "odd.jsonl")})
    with pytest.raises(UserError, match=r"1 of 1 rows cannot be used.*unknown schema.*fields: a \(int\)"):
        run({"path": str(tmp_path / "odd.jsonl"), "kind": "document"})
    (tmp_path / "both.jsonl").write_text('{"text": "a", "messages": [{"role": "user", "content": "a"}]}\n')
    with pytest.raises(UserError, match="document or conversation"):
        run({"path": str(tmp_path / "both.jsonl")})
