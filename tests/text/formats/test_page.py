"""Pages: the encoding that browsers would take, the main part's text all there, no menus."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import read

from danlu.text.formats.page import page
from danlu.text.formats.whole import decoded
from danlu.text.problems import BadRow
from danlu.text.readers import Wanted

ZH = "今天天气很好，我们去公园散步。人工智能正在改变世界，“许多公司”都在研究大模型。"
TW = "今天天氣很好，我們去公園散步。人工智慧正在改變世界，許多公司都在研究大模型。"
EN = "The naïve café owner said: it costs £5 — not more."
PAGE = """<!DOCTYPE html><html><head>{meta}<title> {text}\n Title </title><style>p {{}}</style></head><body>
<nav><a href=/>Home</a> | <a href=/b>About</a></nav>
<div class="main-menu"><ul><li><a href=/1>One</a></li><li><a href=/2>Two</a></li></ul></div>
<script>var a = "<p>not text</p>";</script>
<div id=content><h1>{text}</h1><p>{text} <a href=/x>a link</a> in it.</p>
<table><tr><td>1</td><td>two</td></tr></table><pre>x  = 1
  y</pre></div>
<div class="related"><a href=/3>Other news</a></div><footer>&copy; 2026 x</footer></body></html>"""
TEXT = "{text}\n\n{text} a link in it.\n\n1 | two\n\n```\nx  = 1\n  y\n```"


@pytest.mark.parametrize(
    ("text", "encoding", "label"),
    [
        (ZH, "gbk", "gb2312"), (ZH + "镕", "gbk", "GBK"), (ZH + "𠀀", "gb18030", "gb18030"), (TW, "big5", "big5"),
        (ZH, "utf-8", "utf-8"), (ZH, "utf-8", "gbk"), (ZH, "utf-8", "iso-8859-1"), (EN, "cp1252", "iso-8859-1"),
        (ZH, "utf-16", ""), (ZH, "utf-16-le", "utf-16"), (ZH, "utf-16-be", ""), (ZH, "utf-8-sig", "gbk"),
        (ZH, "gbk", ""), (TW, "big5", ""), (EN, "cp1252", ""), (ZH, "gbk", "utf-8"), (EN, "utf-8", "no-such-one"),
        ("今日は、公園へ散歩に行きましょう。", "cp932", "shift_jis"), ("오늘은 날씨가 좋습니다.", "cp949", "euc-kr"),
    ],
)  # fmt: skip
def test_every_encoding_and_wrong_labels(tmp_path: Path, text: str, encoding: str, label: str) -> None:
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={label}">' if label else ""
    path = tmp_path / "页.html"
    path.write_bytes(PAGE.format(meta=meta, text=text).encode(encoding))
    rows, said = read(path)
    assert said == []
    assert rows[0].fields == {"text": TEXT.format(text=text), "title": f"{text} Title"}
    assert rows[0].where == f"{path}:1"


def test_a_declaration_from_outside_goes_first_and_a_mark_before_all() -> None:
    assert decoded("<p>中文".encode("gbk"), "gbk") == "<p>中文"
    assert decoded('<meta charset="big5"><p>中文'.encode("gbk"), "GB2312").endswith("中文")
    assert decoded(b"\xef\xbb\xbf<p>\xe4\xb8\xad", "gbk") == "<p>中"


def test_a_page_cut_within_a_character_keeps_the_rest_and_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.htm"
    path.write_bytes((f'<meta charset="utf-8"><p>{ZH * 30}').encode()[:-1])
    rows, said = read(path)
    assert said == [] and rows[0].fields["text"].startswith(ZH * 29)
    path.write_bytes(b'<meta charset="utf-8"><p>' + bytes(range(128, 256)) * 20)
    assert read(path) == ([], [("bad", "wrong encoding")])


@pytest.mark.parametrize("ending", [".html.gz", ".xhtml.gz"])
def test_packed_pages_and_pages_without_text(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress('<?xml version="1.0"?><html><head><title/></head><body><p>你好</p></body>'.encode()))
    assert [row.fields["text"] for row in read(path)[0]] == ["你好"]
    path.write_bytes(gzip.compress(b"<html><body><script>x</script></body></html>"))
    assert read(path) == ([], [("bad", "no text")])
    path.write_bytes(gzip.compress(PAGE.encode())[:-20])
    assert read(path) == ([], [("bad", "cut-off file")])
    path.write_bytes(gzip.compress(bytes(3000)))
    assert read(path) == ([], [("bad", "only NUL bytes")])
    path.write_bytes(gzip.compress(b"<p>" + b"long " * 1000))
    assert read(path, Wanted(longest=1000)) == ([], [("bad", "document too long")])


def test_the_article_is_the_page_but_a_list_of_teasers_is_none() -> None:
    teasers = "".join(f"<article><p>{ZH}{number}</p></article>" for number in range(9))
    assert page(f"<body><p>before</p>{teasers}").text.count(ZH) == 9
    assert page(f"<body><p>before</p><article><p>{ZH * 9}</p></article><p>after</p>").text == ZH * 9
    assert page(f"<body><main><p>{EN * 9}</p></main><div>beside</div>").text == EN * 9


def test_what_is_named_like_a_side_column_but_has_most_of_the_text_stays() -> None:
    assert page(f'<body><div class="comments"><p>{EN}</p></div>').text == EN
    assert (
        page(f'<body class="has-sidebar"><div class="post"><p>{EN * 5}</p></div><div id="sidebar">x</div>').text
        == EN * 5
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("abc 中文，。é𠀀<&\"'"), min_size=1, max_size=60), min_size=1, max_size=6))
def test_every_paragraph_comes_back_in_its_order(paragraphs: list[str]) -> None:
    escaped = [text.replace("&", "&amp;").replace("<", "&lt;") for text in paragraphs]
    found = page("<body>" + "".join(f"<p>{text}</p>" for text in escaped)).text
    wanted = [" ".join(text.split()) for text in paragraphs]
    assert found.replace("`", "").split("\n\n") == [text for text in wanted if text] or not any(wanted)


def test_headings_that_link_to_themselves_stay() -> None:
    words = "正文要有足够多的字，才不会被当成菜单。" * 3
    source = f"""<body><h1>题目<a class="headerlink" href="#a">¶</a></h1><p>{words}</p>
    <h2 id="b"><a class="header" href="#b"><code>option</code> 选项</a></h2><p>{words}</p>
    <h3>三级<a href="x.html#c">§</a></h3><p>{words}</p><h3><a href="/news/1">别的新闻的标题</a></h3>
    <ul><li><a href="#b">目录一</a></li><li><a href="#c">目录二</a></li></ul></body>"""
    assert page(source).text == f"题目\n\n{words}\n\n`option` 选项\n\n{words}\n\n三级\n\n{words}"


def test_paragraphs_of_nothing_leave_no_blank_lines() -> None:
    assert page("<p>一<p>&nbsp;<p>　<p>二<pre>a\n\n\n  b</pre>").text == "一\n\n二\n\n```\na\n\n  b\n```"


def test_a_page_without_a_body_and_deep_nesting() -> None:
    assert page("").text == ""
    assert page("<div>" * 5000 + "deep" + "</div>" * 5000).text == "deep"
    with pytest.raises(BadRow, match="wrong encoding"):
        decoded(b"\xff\xfe" + b"\x00\xd8" * 99)


@pytest.mark.parametrize("tag", ["<div>", "<ul><li>", "<article>", "<div class=nav><a>x</a>"])
def test_no_nesting_keeps_the_parser_busy(tag: str) -> None:
    start = time.process_time()
    page(tag * 4000 + "deep")
    with pytest.raises(BadRow, match="nested too deep"):
        page(tag * 30_000)
    with pytest.raises(BadRow, match="nested too deep"):
        page(tag * 30_000 + "</div></ul></article>" * 30_000)
    assert time.process_time() - start < 20  # seconds; the parser alone would take minutes


def test_a_long_page_is_not_deep() -> None:
    assert page("<p>一<br>two<ul><li>x</ul>" * 8000).text.count("two") == 8000
