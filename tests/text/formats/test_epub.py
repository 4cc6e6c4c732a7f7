"""Books: the chapters in the order of the spine, in memory that no archive decides."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written import epub, read

from danlu.text.readers import Wanted

CHAPTERS = [
    "<h1>第一回</h1><p>甄士隐梦幻识通灵。</p>",
    "<h1>Two</h1><p>He said: &#8220;go&#8221;.<br/>Then.</p><script/>",
    "<p>完。</p>",
]
TEXT = "第一回\n\n甄士隐梦幻识通灵。\n\nTwo\n\nHe said: “go”.\nThen.\n\n完。"


def test_chapters_are_one_text_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "红楼梦.epub"
    path.write_bytes(epub(CHAPTERS, "红楼梦"))
    rows, said = read(path)
    assert said == []
    assert [row.fields for row in rows] == [{"text": TEXT, "title": "红楼梦", "author": "曹雪芹"}]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("abc 中文，。é𠀀", min_size=1, max_size=40), min_size=1, max_size=5))
def test_any_chapters_come_back(tmp_path: Path, chapters: list[str]) -> None:
    path = tmp_path / "a.epub"
    path.write_bytes(epub([f"<p>{chapter}</p>" for chapter in chapters]))
    wanted = "\n\n".join(filter(None, (" ".join(chapter.split()) for chapter in chapters)))
    assert [row.fields["text"] for row in read(path)[0]] == [wanted] * bool(wanted)


def test_a_chapter_that_is_missing_locked_or_too_long_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    locked = '<encryption><enc:CipherReference URI="OEBPS/text/%E7%AC%AC0%20%E7%AB%A0.xhtml"/></encryption>'
    content = epub([*CHAPTERS, "<p>" + "长" * 9000], extra={"META-INF/encryption.xml": locked.encode()})
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(out, "w") as part:
        for name in whole.namelist():
            if "第1" not in name:
                part.writestr(name, whole.read(name))
    path.write_bytes(out.getvalue())
    rows, said = read(path, Wanted(longest=5000))
    assert [row.fields["text"] for row in rows] == ["完。"]
    assert said == [("bad", "encrypted chapter"), ("bad", "missing chapter"), ("bad", "chapter too long")]


@pytest.mark.parametrize("cut", [10, 400, -5, -30, -300])
def test_a_cut_archive_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.epub"
    path.write_bytes(epub(CHAPTERS)[:cut])
    assert read(path) == ([], [("bad", "damaged file")])


def test_names_never_leave_the_archive(tmp_path: Path) -> None:
    (tmp_path / "secret.xhtml").write_text("<p>SECRET</p>")
    path = tmp_path / "a.epub"
    package = (
        b'<?xml version="1.0"?><!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/passwd">]><package><manifest>'
        b'<item id="a" href="../../secret.xhtml"/><item id="b" href="/etc/passwd"/>'
        b'<item id="c" href="c.xhtml"/></manifest>'
        b'<spine><itemref idref="a"/><itemref idref="b"/><itemref idref="c"/></spine></package>'
    )
    chapter = b'<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">]><html><body><p>a &x; b</p></body></html>'
    files = {
        "META-INF/container.xml": b'<rootfile full-path="o/book.opf"/>',
        "o/book.opf": package,
        "o/c.xhtml": chapter,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    rows, said = read(path)
    assert [row.fields["text"].replace("]>", "").strip() for row in rows] == ["a &x; b"]
    assert said == [("bad", "missing chapter")] * 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.epub", "secret.xhtml"]


BOMB = """
import sys
from danlu.text.readers import Piece, Wanted, read_piece
said = []
rows = list(read_piece(Piece(sys.argv[1]), lambda bad, where: said.append(bad.reason), Wanted(longest=1 << 20)))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(rows), sorted(set(said)), peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_zip_bomb_is_a_bad_row_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.epub"
    path.write_bytes(epub(["<p>" + "a" * 100_000_000, *["<p>" + "b" * 900_000] * 3]))
    assert path.stat().st_size < 400_000
    answer = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True)
    count, said, peak = answer.stdout.replace("[", "|").replace("]", "|").split("|")
    assert count.strip() == "0" and "chapter too long" in said and "document too long" in said
    assert int(peak) < 120_000


def test_books_and_pdf_files_are_not_packed_again() -> None:
    from danlu.text.readers import file_form

    assert file_form(Path("a.EPUB")) == "epub"
    assert file_form(Path("a.epub.gz")) is None and file_form(Path("a.pdf.zst")) is None
