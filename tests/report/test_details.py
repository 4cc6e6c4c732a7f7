"""What readers tell of a single row has Chinese words: the texts are collected from the code itself."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from test_reasons import CHINESE, SOURCE, strings

from danlu.ledger.counts import Counts
from danlu.report.details import VALUES, place_in, value_name
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records

OWN = {"xx", "x: x", "PDF: x", "gzip: x", "zip: x", "zstd: x", "parquet: x", "x"}
"""Nothing but names, or a library's own words."""


def details() -> set[str]:
    """The second argument of every BadRow in text/, a number or a name in each {…}."""
    found = set()
    for path in (SOURCE / "text").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "BadRow" and len(node.args) > 1:
                found |= set(strings(node.args[1]))
    return {text for text in found if text not in OWN}


@pytest.mark.parametrize("detail", sorted(details()))
def test_it_has_chinese_words(detail: str) -> None:
    shown = re.sub(r"\bx\b", "7", re.sub(r"0xx(x)?", "0xff", detail))
    shown = re.sub(r"\ba 7\b", "a list", shown.replace("7; 7", "x (str); nearest: text takes text"))
    said = place_in(f"a (1).jsonl:3 ({shown})", "zh")
    assert said.startswith("a (1).jsonl:3（") and CHINESE.search(said), f"{detail!r}: add it to report/details.py"
    assert place_in(f"a.jsonl:3 ({shown})", "en") == f"a.jsonl:3 ({shown})"


def test_what_real_rows_say(tmp_path: Path) -> None:
    lines = [
        b'{"text": "cut',
        b'{"text": "\xff"}',
        b'{"txet": "a"}',
        b'{"text": 5}',
        b"[1]",
        b'{"text": "ok"} x',
        b"{,}",
    ]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join([*lines, json.dumps({"text": "足够长的一行"}).encode()]) + b"\n")
    counts = Counts()
    settings = SourceSettings(path=str(file), max_bad_share=1.0)
    list(read_records(settings, "document", counts))
    places = [place for entry in counts.as_dict().values() for place in entry["examples"]]
    assert len(places) >= len(lines)
    for place in places:
        said = place_in(place, "zh").removeprefix(str(tmp_path))
        words = re.sub(r"rows\.jsonl|txet|text|content|danlu|kind|tools|source|meta|str|int|UTF|xff", "", said)
        assert CHINESE.search(said) and not re.search(r"[a-z]{3,}", words), said


def test_other_words_stay() -> None:
    assert place_in("a.parquet:1 (parquet: Invalid)", "zh") == "a.parquet:1（parquet: Invalid）"
    assert place_in("no detail", "zh") == "no detail"
    assert value_name("twin", "zh") == VALUES["twin"] and value_name("twin", "en") == value_name("twin", "en")
