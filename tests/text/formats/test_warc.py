"""Archives of pages: every page with its address, whatever the transfer made of it; what is broken is counted."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import zstandard
from written import read, response, warc_record

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.readers import Wanted
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records

TEXTS = [f"第 {number} 页的内容，page {number}." for number in range(5)] + ["第 5 頁：繁體中文。"]


def html(text: str, encoding: str = "utf-8") -> bytes:
    return f"<html><head><title>T {text[:3]}</title></head><body><nav>menu</nav><p>{text}</p></body></html>".encode(
        encoding
    )


def chunked(body: bytes) -> bytes:
    parts = [body[at : at + 20] for at in range(0, len(body), 20)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


RESPONSES = [
    response(html(TEXTS[0])),
    response(html(TEXTS[1], "gbk"), "Content-Type: text/html; charset=GBK"),
    response(gzip.compress(html(TEXTS[2])), "Content-Type: text/html\r\nContent-Encoding: gzip"),
    response(chunked(html(TEXTS[3])), "Content-Type: application/xhtml+xml\r\nTransfer-Encoding: chunked"),
    response(
        chunked(gzip.compress(html(TEXTS[4]))),
        "content-type: TEXT/HTML\r\ncontent-encoding: gzip\r\nTransfer-Encoding: chunked",
    ),
    response(html(TEXTS[5], "big5"), 'Content-Type: text/html; charset="big5"'),
]
RECORDS = [
    record
    for number, content in enumerate(RESPONSES)
    for record in (
        warc_record("request", f"http://例.cn/{number}", b"GET / HTTP/1.1\r\n\r\n"),
        warc_record("response", f"http://例.cn/{number}", content),
    )
]

PADDING = warc_record("metadata", "http://a", Random(0).randbytes(200_000))


@pytest.mark.parametrize("ending", [".warc", ".warc.gz", ".warc.zst"])
def test_every_page_comes_with_its_address(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"crawl{ending}"
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(b"".join(map(pack, RECORDS)))
    rows, said = read(path)
    assert said == []
    assert [row.fields["text"] for row in rows] == TEXTS
    assert rows[1].fields == {
        "text": TEXTS[1], "title": "T 第 1", "url": "http://例.cn/1", "date": "2026-01-02T03:04:05Z"
    }  # fmt: skip
    assert [row.line for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row.line for row in read(path, Wanted(lines={2, 5}))[0]] == [2, 5]


def test_what_is_no_page_is_left_out_and_does_not_stop_a_strict_reading(tmp_path: Path) -> None:
    others = [
        response(b"gone", status="404 Not Found"),
        response(b"\x89PNG", "Content-Type: image/png"),
        response(b"x", "Content-Type: text/html\r\nContent-Encoding: br"),
    ]
    (tmp_path / "a.warc").write_bytes(
        b"".join(warc_record("response", "http://a", other) for other in others) + RECORDS[1]
    )
    counts = Counts()
    source = SourceSettings(path=str(tmp_path), on_bad_row="stop", max_bad_share=0)
    (record,) = read_records(source, "document", counts)
    assert record.meta == {
        "title": "T 第 0",
        "url": "http://例.cn/0",
        "date": "2026-01-02T03:04:05Z",
        "origin": "a.warc:4",
    }
    found = {reason: entry["count"] for reason, entry in counts.as_dict().items()}
    assert found == {
        "rows": 4, "records": 1, "left out: response other than 200": 1, "left out: response that is no page": 1,
        "left out: response packed by br": 1,
    }  # fmt: skip


def test_plain_text_of_wet_files(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc.wet.gz"
    path.write_bytes(b"".join(gzip.compress(warc_record("conversion", "http://a", text.encode())) for text in TEXTS))
    assert [row.fields["text"] for row in read(path)[0]] == TEXTS


def test_a_record_that_cannot_be_used_costs_itself_only(tmp_path: Path) -> None:
    broken = [
        response(gzip.compress(html(TEXTS[0]) * 9)[:-30], "Content-Type: text/html\r\nContent-Encoding: gzip"),
        response(b"<p>" + b"long " * 1000),
        response(gzip.compress(bytes(50_000_000)), "Content-Type: text/html\r\nContent-Encoding: gzip"),
        response(b"<script>only</script>"),
        response(b'<meta charset="utf-8">' + bytes(range(128, 256)) * 9, "Content-Type: text/html"),
    ]
    path = tmp_path / "a.warc"
    path.write_bytes(RECORDS[1] + b"".join(warc_record("response", "http://a", other) for other in broken) + RECORDS[3])
    rows, said = read(path, Wanted(longest=2000))
    assert {row.line: row.fields["text"] for row in rows}.items() >= {1: TEXTS[0], 7: TEXTS[1]}.items()
    assert Counter(said) >= Counter(
        {("bad", "document too long"): 2, ("bad", "no text"): 1, ("bad", "wrong encoding"): 1}
    )


@pytest.mark.parametrize(
    ("damage", "reason", "kept"),
    [
        (lambda data: data[:-60], "cut-off record", 5),
        (lambda data: data.replace(b"WARC/1.0\r\nWARC-Type: response", b"WARC-what?", 1), "damaged archive", 0),
        (lambda data: gzip.compress(data + PADDING)[:-9], "cut-off file", 6),
        (lambda data: b"<html>no archive</html>", "damaged archive", 0),
        (lambda data: b"", "empty file", 0),
    ],
)
def test_damage_is_counted_after_all_that_can_be_read(tmp_path: Path, damage: object, reason: str, kept: int) -> None:
    content = damage(b"".join(RECORDS))  # type: ignore[operator]
    path = tmp_path / ("a.warc.gz" if content[:2] == b"\x1f\x8b" else "a.warc")
    path.write_bytes(content)
    rows, said = read(path)
    assert ("bad", reason) in said and len(rows) == kept


def test_a_strict_reading_stops_at_damage_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"".join(RECORDS)[:-60])
    source = SourceSettings(path=str(tmp_path / "a.warc"), on_bad_row="stop")
    with pytest.raises(UserError, match=r"a\.warc:6: cut-off record"):
        list(read_records(source, "document", Counts()))
