"""PDF files: running text from printed lines; scans, keys and damage named."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import pytest
from written import pdf, read

from danlu.ledger.errors import UserError
from danlu.text.formats.print_lines import flowing
from danlu.text.readers import Wanted

pytest.importorskip("pypdf")

ZH = "这一行是一篇中文文章的正文，它一直写到这一行的末尾才在"


def page(number: int, *lines: str) -> list[str]:
    return ["A Running Head 书名", *lines, f"- {number} -"]


def test_pages_become_running_text(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    first = [
        "Introduction",
        "The quick brown fox jumps over the lazy dog and then ex-",
        "amines the well-known road that leads to a",
    ]
    third = ["The text of the third page is as long as the others are,", "well-known by now."]
    path.write_bytes(pdf([page(1, *first, "page."), page(2, ZH, "下一行继续。", "第二段。"), page(3, *third)]))
    rows, said = read(path)
    assert said == []
    assert rows[0].fields["pages"] == 3
    assert rows[0].fields["text"].split("\n") == [
        "Introduction",
        "The quick brown fox jumps over the lazy dog and then examines the well-known road that leads to a page.",
        ZH + "下一行继续。",
        "第二段。",
        "The text of the third page is as long as the others are, well-known by now.",
    ]


def test_scanned_pages_are_counted_and_a_file_of_nothing_else_has_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([[], ["文字"], []]))
    rows, said = read(path)
    assert [row.fields["text"] for row in rows] == ["文字"]
    assert said == [("left out", "page without text, as scanned ones are")] * 2
    path.write_bytes(pdf([[], []]))
    assert read(path)[1][-1] == ("bad", "no text")


def test_keys(tmp_path: Path) -> None:
    import pypdf

    path = tmp_path / "a.pdf"
    for password, wanted in (("secret", ([], [("bad", "encrypted")])), ("", None)):
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf([["文字"]])))
        writer.encrypt(password, "owner", algorithm="AES-256")
        writer.write(path)
        found = read(path)
        assert found == wanted if wanted else [row.fields["text"] for row in found[0]] == ["文字"]


@pytest.mark.parametrize("cut", [20, 300, 900])
def test_a_cut_file_is_named_or_read_as_far_as_it_goes(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([["文字"]] * 3)[:cut])
    rows, said = read(path)
    assert len(rows) + len([reason for kind, reason in said if kind == "bad"]) >= 1


def test_too_much_text(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([["字" * 40] * 30] * 3))
    assert read(path, Wanted(longest=2000)) == ([], [("bad", "document too long")])


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([["文字"]]))
    found = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "pypdf":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r'pip install "danlu\[pdf\]"'):
        read(path)


def test_lists_titles_and_short_lines_stay_lines() -> None:
    lines = [
        "Contents",
        "1. One thing that is quite long, as long as a line",
        "2. Another thing",
        "（一）中文条目",
        "• bullet",
    ]
    assert flowing([lines]).split("\n") == lines
    contents = ["1 Introduction . . . . . . . . . . . . 1", "2 第二章…………………………… 12", "3 Third ............ 20"]
    assert flowing([contents]).split("\n") == contents
    assert flowing([]) == flowing([["12"]]) == ""


@pytest.mark.parametrize("number", ["7", "- 7 -", "第 7 页", "第7页 共20页", "Page 7 of 20", "7/20", "iv", "· 7 ·"])
def test_page_numbers(number: str) -> None:
    assert flowing([["正文", number]]) == flowing([[number, "正文"]]) == "正文"
    assert flowing([["7 apples", "第七页书"]]) == "7 apples\n第七页书"
