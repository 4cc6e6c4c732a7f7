"""Bad input to cleaning: a clear error or a count by reason, and what was finished stays."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.ledger import files
from danlu.ledger.errors import UserError
from danlu.text.clean import clean
from danlu.text.ops import length
from danlu.text.problems import BadRow
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings
from danlu.text.streams import decode

GOOD = [{"text": f"第 {n} 句话很好。"} for n in range(20)]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def run(path: Path, out: Path, steps: list[dict[str, Any]] | None = None, **source: Any) -> dict[str, Any]:
    settings = {"sources": [{"path": str(path), "name": "raw", **source}], "steps": steps or [], "workers": 1}
    clean(check(CleanSettings, {**settings, "task_bytes": 1000}), out)
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())["sources"]["documents/raw"]
    return found


def test_broken_utf8_and_changed_types_cost_their_rows_only(tmp_path: Path) -> None:
    odd = [{"text": 5}, {"text": ["a list"]}, {"text": {"a": 1}}, {"text": None}, {"text": "fine", "n": "text"}]
    content = lines([{"text": "fine", "n": 1}, *GOOD]) + b'{"text": "\xe4\xb8"}\n' + lines([*odd, *GOOD])
    (tmp_path / "raw.jsonl").write_bytes(content)
    found = run(tmp_path / "raw.jsonl", tmp_path / "out")
    assert found["kept"] == 42
    bad = {reason: entry["count"] for reason, entry in found["read"].items() if reason.startswith("bad: ")}
    assert bad["bad: not UTF-8"] == 1 and sum(bad.values()) == 5


LONG_LINE = """
import sys
from pathlib import Path
from danlu.config import check
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings
clean(check(CleanSettings, {"sources": [{"path": sys.argv[1], "name": "raw"}], "steps": [{"op": "normalise"}]}),
      Path(sys.argv[2]))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_line_of_200_mb_is_skipped_counted_and_never_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "raw.jsonl").open("wb") as handle:
        handle.write(lines(GOOD) + b'{"text": "')
        for _ in range(200):
            handle.write(b"x" * 1_000_000)
        handle.write(b'"}\n' + lines(GOOD))
    command = [sys.executable, "-c", LONG_LINE, str(tmp_path / "raw.jsonl"), str(tmp_path / "out")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 300_000
    read = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]["documents/raw"]["read"]
    assert read["bad: line too long"] == {
        "count": 1,
        "examples": [f"{tmp_path}/raw.jsonl:21 (more than max_row_bytes, 8 MB)"],
    }
    assert read["records"]["count"] == 40


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "json", "csv", "parquet", "jsonl.gz", "jsonl.zst"])
def test_a_file_of_nul_bytes_is_named(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "good.jsonl").write_bytes(lines(GOOD))
    (folder / f"nul.{suffix}").write_bytes(bytes(5000))
    found = run(folder, tmp_path / "out", kind="document")
    assert found["kept"] == 20
    assert any("nul." in entry["examples"][0] for reason, entry in found["read"].items() if reason.startswith("bad: "))
    (folder / "good.jsonl").unlink()
    with pytest.raises(UserError, match="1 of 1 rows cannot be used"):
        run(folder, tmp_path / "out", kind="document")


def test_a_growing_file_is_refused_and_what_was_measured_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_bytes(lines(GOOD * 4))
    measured = length.characters_of
    calls = 0

    def growing(record: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 100:
            with (folder / "b.jsonl").open("ab") as handle:
                handle.write(lines(GOOD))
        return measured(record)

    monkeypatch.setattr(length, "characters_of", growing)
    with pytest.raises(UserError, match=r"b\.jsonl: this file changed while it was read"):
        run(folder, tmp_path / "out", [{"op": "length"}])
    assert not (tmp_path / "out" / "manifest.json").exists()
    calls = 1000
    before = set((tmp_path / "out").glob("columns/documents/raw/part-00000/*"))
    assert before
    assert run(folder, tmp_path / "out", [{"op": "length"}])["kept"] == 180
    assert before < set((tmp_path / "out").glob("columns/documents/raw/*/*"))
    assert calls == 1000 + 100


@pytest.mark.parametrize("content", [b"", b"\n\n \n"])
def test_an_empty_corpus_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "raw.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="no row can be read" if content else "empty: there is not a byte here"):
        run(tmp_path / "raw.jsonl", tmp_path / "out")
    with pytest.raises(UserError, match=r"hold no record|1 of 1 rows cannot be used.*empty file"):
        run(tmp_path / "raw.jsonl", tmp_path / "out", kind="document")
    (tmp_path / "raw.jsonl").write_bytes(lines(GOOD))
    with pytest.raises(UserError, match="hold no record: 20 left out: no value for score"):
        run(tmp_path / "raw.jsonl", tmp_path / "out", where=["score > 1"])


def test_everything_filtered_away_is_an_error_that_says_by_what(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_bytes(lines(GOOD))
    with pytest.raises(UserError, match="every record was dropped: 20 length: too short"):
        run(tmp_path / "raw.jsonl", tmp_path / "out", [{"op": "length", "min": 99}])
    assert len(list(read_rows(tmp_path / "out" / "dropped"))) == 20
    assert (tmp_path / "out" / "statistics.json").exists()
    assert run(tmp_path / "raw.jsonl", tmp_path / "out", [{"op": "length", "min": 9}])["kept"] == 20


def test_a_missing_list_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_bytes(lines(GOOD))
    (tmp_path / "words.txt").write_text("坏\n")
    step = {"op": "keywords", "lists": [str(tmp_path / "wrods.txt")], "count": {"max": 0}}
    with pytest.raises(
        UserError, match=r"wrods.txt: a file of the step keywords is missing[^→]*→ did you mean words.txt"
    ):
        run(tmp_path / "raw.jsonl", tmp_path / "out", [step])
    assert not (tmp_path / "out").exists()


def test_a_changed_list_is_another_question(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_bytes(lines(GOOD))
    words = tmp_path / "words.txt"
    step = {"op": "keywords", "lists": [str(words)], "count": {"max": 0}}
    words.write_text("坏\n")
    assert run(tmp_path / "raw.jsonl", tmp_path / "out", [step])["kept"] == 20
    words.write_text("第 3 句\n")
    assert run(tmp_path / "raw.jsonl", tmp_path / "out", [step])["kept"] == 19


@pytest.mark.parametrize("at", [1, 4, 9, 12, 14, 16])
def test_a_disk_that_fills_is_said_and_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    (tmp_path / "raw.jsonl").write_bytes(lines(GOOD * 30))
    steps = [{"op": "normalise"}, {"op": "length"}, {"op": "exact_dedup"}]
    synced, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"the disk is full; nothing half-written was left\n.*free some space"):
        run(tmp_path / "raw.jsonl", tmp_path / "out", steps)
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("columns/**/*.parquet")}
    assert not [file for file in (tmp_path / "out").rglob("*") if "partial" in file.name]
    assert run(tmp_path / "raw.jsonl", tmp_path / "out", steps)["kept"] == 20
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())


@pytest.mark.parametrize("limit", [600, 2_000, 4_000, 9_000])
def test_a_file_that_may_not_grow_is_said_and_gone_on_from(tmp_path: Path, limit: int) -> None:
    """The system itself refuses, so that all ways in which files are written are tried."""
    rows = [
        {"text": f"第 {n} 篇：" + "今天天气很好，我们一起去公园散步。" * 3 + "The rest is the same." * 4}
        for n in range(90)
    ]
    (tmp_path / "raw.jsonl").write_bytes(lines(rows))
    steps = [{"op": op} for op in ("normalise", "words", "near_dedup", "line_dedup", "exact_dedup")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match=r"a file may not become larger here; nothing half-written was left"):
            run(tmp_path / "raw.jsonl", tmp_path / "out", steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("columns/**/*.parquet")}
    assert not [file for file in (tmp_path / "out").rglob("*") if "partial" in file.name]
    found, whole = (run(tmp_path / "raw.jsonl", tmp_path / name, steps) for name in ("out", "whole"))
    assert [found[name] for name in ("kept", "dropped", "read")] == [
        whole[name] for name in ("kept", "dropped", "read")
    ]
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="raw: this folder holds no file"):
        run(tmp_path / "raw", tmp_path / "out")


def test_every_line_of_utf_16_is_told_as_that() -> None:
    first, second, _ = '{"text": "海里的船"}\n{"text": "船"}\n'.encode("utf-16").split(b"\n")
    for line in (first, second):
        with pytest.raises(BadRow, match="not UTF-8") as bad:
            decode(line)
        assert "this looks like UTF-16" in str(bad.value) and "GB18030" not in str(bad.value)
    with pytest.raises(BadRow, match="in GB18030 it reads “海里的船”"):
        decode("海里的船".encode("gb18030"))
