"""Readers give back every row that was written, name what is broken, and keep the rest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from danlu.ledger.errors import UserError
from danlu.text import json_stream
from danlu.text.problems import BadRow
from danlu.text.readers import Piece, read_piece, read_rows
from danlu.text.survey import groups, survey

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), max_size=6)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ZH_EN = "第一行，“你好”！🙂\r\nsecond line, naïve\u2028end"

Bad = list[tuple[str, str]]


def read(path: Path | Piece, **how: Any) -> tuple[list[dict[str, Any]], Bad]:
    bad: Bad = []

    def note(problem: BadRow, where: str) -> None:
        bad.append((problem.reason, where.rpartition("/")[2]))

    rows = read_piece(path, note, **how) if isinstance(path, Piece) else read_rows(path, note, **how)
    return [row.fields for row in rows], bad


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def frames(content: bytes) -> bytes:
    """A .zst file of several frames, as parallel compressors and `cat` make them."""
    third = len(content) // 3
    parts = (content[:third], content[third : 2 * third], b"", content[2 * third :])
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in parts)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content[:5]) + gzip.compress(content[5:]),
    ".zst": frames,
}


@QUICK
@given(rows=ROWS, ending=st.sampled_from([*PACKERS]), bom=st.booleans())
def test_json_lines_round_trip(tmp_path: Path, rows: list[dict[str, Any]], ending: str, bom: bool) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACKERS[ending](b"\xef\xbb\xbf" * bom + jsonl(rows)))
    found, bad = read(path)
    assert found == rows
    assert bad == [] or not rows


@QUICK
@given(rows=ROWS, ending=st.sampled_from([*PACKERS]), indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_json_arrays_round_trip(
    tmp_path: Path, rows: list[dict[str, Any]], ending: str, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path / f"rows.json{ending}"
    path.write_bytes(PACKERS[ending](json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()))
    assert read(path) == (rows, [])


@QUICK
@given(values=st.lists(VALUE, max_size=5), size=st.integers(1, 7), indent=st.sampled_from([None, 1]))
def test_json_arrays_cut_anywhere(values: list[Any], size: int, indent: int | None) -> None:
    content = json.dumps(values, indent=indent, ensure_ascii=False).encode()
    chunks = (content[at : at + size] for at in range(0, len(content), size))
    bad: list[BadRow] = []
    assert [value for _, value in json_stream.items(chunks, lambda problem, _: bad.append(problem))] == values
    assert not bad


@QUICK
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), ending=st.sampled_from([*PACKERS]))
def test_csv_round_trips(tmp_path: Path, rows: list[tuple[str, str]], ending: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("问题", "answer"), *rows])
    path = tmp_path / f"rows.csv{ending}"
    path.write_bytes(PACKERS[ending](text.getvalue().encode()))
    assert read(path) == ([{"问题": first, "answer": second} for first, second in rows], [])


@QUICK
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXT, "n": st.none() | st.integers(0, 9)}), max_size=6))
def test_parquet_round_trips(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    parquet.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "rows.parquet", row_group_size=2)
    assert read(tmp_path / "rows.parquet") == (rows, [])


def test_folders_are_read_in_order_whatever_the_types(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    parquet.write_table(pa.table({"text": ["一"], "id": [1]}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"text": ["二"], "id": ["x"]}), tmp_path / "b" / "c.parquet")
    (tmp_path / "z.jsonl").write_bytes(jsonl([{"text": "三", "id": [1.5]}]))
    (tmp_path / "LICENSE").write_text("no data")
    assert [row["id"] for row in read(tmp_path)[0]] == [1, "x", [1.5]]


def test_nested_columns_that_nobody_asks_for_are_not_decoded(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["a"], "embedding": [[0.1, 0.2]], "score": [1.0]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", columns={"text"})[0] == [{"text": "a", "score": 1.0}]


def test_what_one_document_is(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_bytes("第一\r\n行\n\n\n第二 paragraph\n".encode())
    assert read(path)[0] == [{"text": "第一\n行\n\n\n第二 paragraph"}]
    assert read(path, document="paragraph")[0] == [{"text": "第一\n行"}, {"text": "第二 paragraph"}]
    assert read(path, document="line")[0] == [{"text": "第一"}, {"text": "行"}, {"text": "第二 paragraph"}]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_bad_rows_are_named_and_the_rest_is_read(tmp_path: Path, ending: str) -> None:
    lines = [jsonl([{"n": 1}]), b"{broken\n", '{"n": "中文"}\n'.encode("gb18030"), b"[1]\n", b'{"n": "\\ud800"}\n']
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(PACKERS[ending](b"".join([*lines, jsonl([{"n": ZH_EN}])[:-1]])))
    rows, bad = read(path)
    assert rows == [{"n": 1}, {"n": ZH_EN}]
    name = path.name
    assert bad == [
        ("broken JSON", f"{name}:2"),
        ("not UTF-8", f"{name}:3"),
        ("not an object", f"{name}:4"),
        ("not UTF-8", f"{name}:5"),
    ]


def test_the_likely_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("春眠不觉晓".encode("gb18030"))
    with pytest.raises(UserError, match="春眠不觉晓"):
        list(read_rows(tmp_path / "a.txt"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"score": {number}, "all": [{number}, 1.5]}}')
    (tmp_path / "b.json").write_text(f'[{{"score": {number}, "all": [{number}, 1.5]}}]')
    parquet.write_table(pa.table({"score": [float(number)], "all": [[float(number), 1.5]]}), tmp_path / "c.parquet")
    assert read(tmp_path)[0] == [{"score": None, "all": [None, 1.5]}] * 3


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.jsonl.gz", "a.parquet"])
def test_empty_files_are_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    rows, bad = read(tmp_path / name)
    assert rows == [] and bad[0][0] in ("empty file", "damaged file")


ROW = {"text": "一二三四五六七八九十" * 20}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", jsonl([ROW] * 3)[:-200], "cut-off last line"),
        ("a.json", json.dumps([ROW] * 3, indent=1).encode()[:-200], "cut-off file"),
        ("a.json", json.dumps([ROW, ROW])[:-1].encode(), "cut-off file"),
        ("a.jsonl.gz", gzip.compress(jsonl([{"text": str(n) * 99} for n in range(9999)]))[:-900], "cut-off file"),
        ("a.jsonl.zst", zstandard.compress(jsonl([{"text": str(n) * 99} for n in range(9999)]))[:-900], "cut-off file"),
        ("a.jsonl.zst", b"not zstd", "damaged file"),
        ("a.jsonl.gz", b"not gzip", "damaged file"),
        ("a.parquet", b"PAR1 but no more", "damaged file"),
    ],
)
def test_cut_off_and_damaged_files(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    rows, bad = read(tmp_path / name)
    assert reason in [found for found, _ in bad]
    assert (len(rows) >= 2) == (reason not in ("damaged file",))


def test_a_broken_item_costs_only_itself_where_items_have_lines(tmp_path: Path) -> None:
    text = json.dumps([{"n": n, "turns": [{"a": 1}, {"b": 2}]} for n in range(5)], indent=2)
    (tmp_path / "a.json").write_text(text.replace('"n": 2', '"n": oops'))
    rows, bad = read(tmp_path / "a.json")
    assert [row["n"] for row in rows] == [0, 1, 3, 4]
    assert bad == [("broken JSON", "a.json:3")]
    (tmp_path / "b.json").write_text('[{"n": 0}, {"n": oops}, {"n": 2}]')
    assert read(tmp_path / "b.json")[1] == [("broken JSON", "b.json:2"), ("rest of the file lost", "b.json:3")]


def test_json_files_that_are_no_array(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"n":\n 1}\n')
    (tmp_path / "two.json").write_bytes(b'{"n": 1}\n{broken}\n{"n": 3}\n')
    assert read(tmp_path / "one.json") == ([{"n": 1}], [])
    assert read(tmp_path / "two.json") == ([{"n": 1}, {"n": 3}], [("broken JSON", "two.json:2")])


def test_csv_rows_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('q,a\n1,"two\nlines"\n1,2,3\n"x"y,2\n\n问,答\n'.encode() + b"\xff,2\n")
    rows, bad = read(tmp_path / "a.csv")
    assert rows == [{"q": "1", "a": "two\nlines"}, {"q": "问", "a": "答"}]
    assert [reason for reason, _ in bad] == ["broken CSV", "broken CSV", "not UTF-8"]
    assert [place for _, place in bad] == ["a.csv:4", "a.csv:5", "a.csv:8"]


def test_deep_nesting_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": ' + "[" * 100_000 + "\n" + '{"n": 1}')
    assert read(tmp_path / "a.jsonl") == ([{"n": 1}], [("broken JSON", "a.jsonl:1")])


def test_unknown_endings_and_missing_files_are_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "a.docx").touch()
    with pytest.raises(UserError, match=r"no reader for \.docx"):
        list(read_rows(tmp_path / "a.docx"))
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(UserError, match=r"did you mean train\.jsonl"):
        list(read_rows(tmp_path / "trian.jsonl"))


@QUICK
@given(lengths=st.lists(st.integers(0, 90_000), min_size=1, max_size=8), size=st.integers(1, 200_000))
def test_pieces_hold_every_row_once_with_its_line(tmp_path: Path, lengths: list[int], size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"n": n, "pad": "字" * length} for n, length in enumerate(lengths)]))
    pieces = [Piece(**piece) for piece in survey(str(path), size)["pieces"]]
    rows = [row for piece in pieces for row in read_piece(piece)]
    assert [(row.fields["n"], row.line) for row in rows] == [(n, n + 1) for n in range(len(lengths))]


@pytest.mark.parametrize("size", [1 << 19, 700_000])
def test_tasks_are_about_as_large_as_asked_for(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"pad": "x" * 900} for _ in range(4000)]))
    pieces = [Piece(**piece) for piece in survey(str(tmp_path / "a.jsonl"), size)["pieces"]]
    made = groups(pieces, size)
    assert [piece for group in made for piece in group] == pieces
    sizes = [sum((piece.stop or 0) - piece.start for piece in group) for group in made]
    assert all(0.7 * size < one < 1.7 * size for one in sizes[:-1])


def test_row_groups_are_pieces(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"n": range(100)}), tmp_path / "a.parquet", row_group_size=10)
    pieces = [Piece(**piece) for piece in survey(str(tmp_path / "a.parquet"), 1)["pieces"]]
    assert len(pieces) == 10
    assert [(r.fields["n"], r.line) for piece in pieces for r in read_piece(piece)] == [(n, n + 1) for n in range(100)]


MEMORY = """
import sys
from pathlib import Path
from danlu.text.readers import read_rows
count = sum(1 for _ in read_rows(Path(sys.argv[1])))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("form", ["json", "jsonl", "jsonl.zst", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str) -> None:
    peaks = []
    for rows in (1_000, 20_000):
        path = tmp_path / f"{rows}.{form}"
        content = [{"text": f"{n} 字" * 250} for n in range(rows)]
        if form == "parquet":
            parquet.write_table(pa.Table.from_pylist(content), path, row_group_size=20_000)
        else:
            plain = json.dumps(content).encode() if form == "json" else jsonl(content)
            path.write_bytes(frames(plain) if form.endswith("zst") else plain)
        answer = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
        count, peak = map(int, answer.stdout.split())
        assert count == rows
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0] + 4_000  # kilobytes; the greater file alone is 40 MB
