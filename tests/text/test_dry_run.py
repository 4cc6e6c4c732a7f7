"""What a dry run says of a corpus is near to what cleaning then does, whatever form the files have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet
from rich.console import Console

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.recipe.clean_plan import print_bill
from danlu.recipe.plan_words import CLEANING
from danlu.text.clean import clean
from danlu.text.cleaning import dry_run as dry
from danlu.text.cleaning import sampling
from danlu.text.cleaning.sampling import sample_source
from danlu.text.readers import read_rows
from danlu.text.settings import CleanSettings, CleanSource

STEPS = [{"op": "normalise"}, {"op": "length", "min": 100}, {"op": "exact_dedup"}]


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Every fourth is short."""
    return [
        {"text": f"第 {n} 篇 " + (f"春眠不觉晓 {n * 7919 % 10007} " * 40 if n % 4 else "短"), "n": n}
        for n in range(first, first + count)
    ]


def lines(content: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    (folder / "a.jsonl").write_bytes(lines(rows(6000)))
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(lines(rows(6000, 10_000)), 1))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines(rows(3000, 20_000)), 1))
    parquet.write_table(pa.Table.from_pylist(rows(3000, 30_000)), folder / "d.parquet", row_group_size=500)
    (folder / "e.json").write_text(json.dumps(rows(2000, 40_000), ensure_ascii=False))
    for n in range(40):
        (folder / f"f{n:02d}.jsonl").write_bytes(lines(rows(50, 50_000 + 50 * n)))
    return folder


def settings(raw: Path, **how: Any) -> CleanSettings:
    source = {"path": str(raw), "name": "raw"}
    return check(CleanSettings, {"sources": [source], "steps": STEPS, "workers": 2, "task_bytes": 1 << 20, **how})


@pytest.fixture(scope="module")
def bill(raw: Path) -> dry.Bill:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dry, "LEAST_BYTES", 1 << 20)
        patch.setattr(sampling, "STRETCH", 1 << 16)
        return dry.dry_run(settings(raw))


def test_a_bill_is_near_to_what_is_paid(raw: Path, bill: dry.Bill, tmp_path: Path) -> None:
    clean(settings(raw, workers=1), tmp_path / "out")
    paid = json.loads((tmp_path / "out" / "statistics.json").read_text())["documents/raw"]
    assert 0.1 < bill.share < 0.5
    assert [step.step for step in bill.steps] == ["normalise", "length", "exact_dedup"]
    for expected, step in zip(bill.steps, paid, strict=True):
        assert expected.rows == pytest.approx(step["rows"], rel=0.2)
        assert expected.characters_out == pytest.approx(step["characters_out"], rel=0.2)
    assert bill.steps[1].dropped == pytest.approx(0.25 * bill.rows, rel=0.1)
    written = sum(file.stat().st_size for file in (tmp_path / "out" / "documents").rglob("*.zst"))
    assert bill.disk_mb["documents"] * 1e6 == pytest.approx(written, rel=0.3)
    ran = sum(len(file.read_text().splitlines()) for file in (tmp_path / "out").rglob("tasks.jsonl"))
    assert bill.tasks == pytest.approx(ran, rel=0.5)
    assert bill.slowest.seconds > 0 and bill.seconds > 0 and 50 < bill.worker_mb < 1000


@pytest.mark.parametrize("share", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.zst", "c.jsonl.gz", "d.parquet", "e.json", "f*"])
def test_a_sample_is_the_share_that_it_says(raw: Path, tmp_path: Path, share: float, name: str) -> None:
    files = sorted(raw.glob(name))
    whole = [row.fields["n"] for file in files for row in read_rows(file)]
    sample = sample_source(CleanSource(path=str(raw)), files, share, tmp_path)
    taken = [row.fields["n"] for row in read_rows(sample.file)]
    assert len(set(taken)) == len(taken) == sample.rows and set(taken) <= set(whole)
    assert sample.share == pytest.approx(len(taken) / len(whole), rel=0.15)
    assert sample.share >= 0.9 * share
    if share == 1:
        assert taken == whole


def test_a_limit_is_the_whole_of_a_source(raw: Path, tmp_path: Path) -> None:
    sample = sample_source(CleanSource(path=str(raw), limit=1000), sorted(raw.iterdir()), 0.01, tmp_path)
    assert (sample.rows, sample.share) == (100, 0.1)


def test_the_bill_is_printed_in_both_languages(bill: dry.Bill) -> None:
    assert CLEANING["en"].keys() == CLEANING["zh"].keys()
    for words, said in ((CLEANING["en"], ("slowest step", "MB, ")), (CLEANING["zh"], ("最慢的步骤", "每个进程"))):
        console = Console(width=80, record=True, highlight=False)
        print_bill(bill, console, words)
        text = console.export_text()
        assert "exact_dedup" in text and words["tasks"] in text and words["how"][:9] in text
        assert all(part in text for part in said), text
        assert words is CLEANING["en"] or not any(word in text for word in ("step", "kept", "memory", "workers"))


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="no row here fits"):
        dry.dry_run(settings(tmp_path / "raw.jsonl"))
