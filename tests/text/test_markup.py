"""Steps that take out markup: what goes, what stays, and that doing it twice changes nothing more."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from danlu.ledger.counts import Counts
from danlu.text.ops.html import plain_text
from danlu.text.ops.links import unlinked
from danlu.text.ops.markdown import without_boilerplate
from danlu.text.ops.simplified import in_simplified
from danlu.text.ops.table import OPERATORS
from danlu.text.records import Conversation, Document
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.markup import HtmlStep, LinksStep, MarkdownStep, SimplifiedStep, WidthStep

MARKUP = """
<b> </b> <p> </p> <br> <br/> <div|class='a'> </div> <script> </script> <pre> </pre> <code> </code> <!-- --> <html>
<nav> </nav> <title> </title> <a|href='x'> </a> &lt; &gt; &amp; &nbsp; &#96; amp; lt; a<b List<String> ` `` ``` ~~~
[a](b) ![a](b) [![a](b)](c) ]( [TOC] -|[a](#a)| ---| k:|v| +++| [r]:|u| [r] badge <!--|toc|--> <!--|tocstop|-->
https://a.cn/b http:// www.a.cn www. :// ftp://x Ａ１！ 漢語 乾 著 你好 目录| 2.| -| *| é 𠀀
"""
PIECES = [
    *(piece.replace("|", end) for piece in MARKUP.split() for end in " \n"),
    *"<>/bi[]()#|.。，「（）!\\\"'1 \n\u3000😀\u0301",
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


def changed(text: str, step: Any) -> str:
    record = OPERATORS[step.op].change(Document(text), step)
    assert isinstance(record, Document)
    return record.text


@pytest.mark.parametrize(
    "step",
    [
        HtmlStep(),
        LinksStep(),
        LinksStep(replacement="[URL]"),
        MarkdownStep(),
        WidthStep(),
        WidthStep(punctuation=True),
        SimplifiedStep(),
    ],
    ids=lambda step: step.op,
)
@given(text=TEXT | st.text(max_size=20))
def test_twice_changes_nothing_more(step: Any, text: str) -> None:
    once = changed(text, step)
    assert changed(once, step) == once


@given(st.text(st.characters(exclude_characters="<&[]`~:") | st.sampled_from("a<b < <= << >> && & x<y>z"), max_size=40))
@example("if a<b and c>d: List<String> x = new Map<K, V>(); cp <source> <target> && AT&T; R&D; 1 < 2; a <- b")
@example("std::vector<std::pair<int, object>> v; #include <map>\n#include <string>\nx << 1 >> 2; Foo<I>::bar")
@example("价格<100，a&b，《书》<见下>，x＜y")
def test_plain_text_and_code_stay(text: str) -> None:
    assume(html.unescape(text) == text)  # an entity, as drawn from & and letters by chance, is markup
    assert plain_text(text) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("一<b>二</b>三", "一二三"),
        ("<p>第一段</p><p>第二段<br>换行</p>", "第一段\n\n第二段\n换行\n"),
        ("a<span style='color:red'>b</span>c", "abc"),
        ("<FONT SIZE=2>Old</FONT> page", "Old page"),
        ("x<!-- note\nnote -->y", "xy"),
        ("before<script>var a = '<p>';</script>after", "before\nafter"),
        ("AT&amp;T &lt;tel&gt; &nbsp;&#20013;&#x6587;&hellip;", "AT&T `<tel>` \xa0中文…"),
        ("scanf(&sum;) &unknown;", "scanf(&sum;) &unknown;"),
        ("用 &lt;br&gt; 换行，<i>斜体</i>", "用 `<br>` 换行，斜体"),
        ("`<b>code</b>` and <b>bold</b>", "`<b>code</b>` and bold"),
        ("```html\n<p>kept</p>\n```\n<p>gone</p>", "```html\n<p>kept</p>\n```\ngone\n"),
        ("~~~\n<p>kept</p>", "~~~\n<p>kept</p>"),
        ("<input disabled>", ""),
        ("title <title> here", "title <title> here"),
        ("change </UL> to </OL>, use <div> (`</div>`)", "change </UL> to </OL>, use <div> (`</div>`)"),
        ("feed('<p class=\"a\">x</p>')", "feed('<p class=\"a\">x</p>')"),
        ('<p>"Hello," he said. "Bye"</p>', '"Hello," he said. "Bye"\n'),
        ("𠀀<u>𠀁</u>😀", "𠀀𠀁😀"),
        ("<<b>b>x</b>", "<b>x"),  # and now nothing closes
        ("<table>\n<tr>\n<td>a</td>\n<td>b</td>\n</tr>\n</table>", "\n\na\n\nb\n\n"),
    ],
)
def test_html(text: str, wanted: str) -> None:
    assert plain_text(text) == wanted


PAGE = """<!DOCTYPE html>
<html><head><title>标题</title><style>p { color: red }</style></head>
<body><nav><a href="/">首页</a></nav>
<h1>丹炉</h1>
<p>第一段有<b>重点</b>，
和一个<a href="https://a.cn">链接</a>。</p>
<ul><li>甲</li><li>乙 &lt;br&gt;</li></ul>
<table><tr><th>名</th><th>值</th></tr><tr><td>a</td><td>1</td></tr></table>
<pre><code>if a &lt; b:
    print("&lt;p&gt;")
</code></pre>
<p>Use <code>&lt;div&gt;</code> here.</p>
<script>alert("x")</script><footer>版权所有</footer></body></html>"""


def test_a_page_is_what_a_reader_sees() -> None:
    assert plain_text(PAGE) == (
        "丹炉\n\n第一段有重点， 和一个链接。\n\n甲\n乙 `<br>`\n\n名 | 值\na | 1\n\n"
        '```\nif a < b:\n    print("<p>")\n```\n\nUse `<div>` here.'
    )


def test_a_page_may_be_broken_or_deep() -> None:
    assert plain_text("<html><body><p>未闭合 <b>粗") == "未闭合 粗"
    assert plain_text("<html><body>" + "<div>" * 5000 + "深" + "</div>" * 5000) == "深"
    assert plain_text("<html></html>") == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("详见https://a.cn/b?c=1。谢谢", "详见。谢谢"),
        ("See https://en.wikipedia.org/wiki/A_(b), or www.example.com.", "See, or."),
        ("文档（https://a.cn/x）和<https://b.cn>", "文档和"),
        ('[链接](https://a.cn "标题")与[b](./c.md)、[d](#e)', "链接与b、d"),
        ("![图](a.png) [![构建](https://x/y.svg)](https://z)", "图 构建"),
        ("见[手册][1]和[这里][]。\n\n[1]: https://a.cn '题'\n[这里]: <b.md>\n", "见手册和这里。\n\n"),
        ("a[0](x) and matrix[i][j] and [注意]", "a[0](x) and matrix[i][j] and [注意]"),
        ("`curl https://a.cn`\n```\nwget https://a.cn\n```", "`curl https://a.cn`\n```\nwget https://a.cn\n```"),
        ("[https://a.cn](https://a.cn)", ""),
        ("[a [b] c](u)", "a [b] c"),
        ("version 1.2.3, e.g. file.txt: see www", "version 1.2.3, e.g. file.txt: see www"),
        ("(see https://a.cn/x).", "(see)."),
        ("参考：\n- https://a.cn\n- <https://b.cn>\n2. http://c.cn\n完", "参考：\n完"),
    ],
)
def test_links(text: str, wanted: str) -> None:
    assert unlinked(text) == wanted


def test_links_may_be_replaced_instead() -> None:
    assert unlinked("看 https://a.cn 和 http://b.cn/c", "[URL]") == "看 [URL] 和 [URL]"
    with pytest.raises(ValueError, match="would be a link"):
        LinksStep(replacement="https://x")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("---\ntitle: 标题\ntags:\n  - a\n- b\n# note\ndate: 2020-01-01\n---\n\n正文", "正文"),
        ("+++\ntitle = 'x'\n[a]\n+++\ntext", "text"),
        ("---\n一段普通的话\n---\n正文", "---\n一段普通的话\n---\n正文"),
        ("---\n\n正文", "---\n\n正文"),
        ("# 名 [![build](https://travis-ci.org/a.svg)](https://b) ![v](https://img.shields.io/v)\n文", "# 名\n文"),
        ("前\n\n![图1](a.png)\n![图2](b.png) | ![][c]\n\n后 ![内](d.png)\n", "前\n\n\n后 ![内](d.png)\n"),
        ("# 目录\n\n- [一](#一)\n  - [二](#二)\n* [三 [x]](#三-(x))\n\n正文", "正文"),
        ("Table of Contents\n=\n1. [a](#a)\n2. [b](#b)\n3. [c](#c)\n\ntext", "Table of Contents\n=\ntext"),
        ("- [一](#一)\n- [二](b.md)\n- [三](#三)", "- [一](#一)\n- [二](b.md)\n- [三](#三)"),
        ("[TOC]\n正文\n[[_toc_]]\n", "正文\n"),
        ("a\n<!-- toc -->\n- x\n<!-- tocstop -->\nb", "a\nb"),
        ("```\n[TOC]\n![a](b)\n---\n```\n", "```\n[TOC]\n![a](b)\n---\n```\n"),
    ],
)
def test_markdown(text: str, wanted: str) -> None:
    assert without_boilerplate(text, MarkdownStep()) == wanted


def test_parts_of_markdown_may_be_kept() -> None:
    text = "---\nk: v\n---\n[TOC]\n![a](b)\n![c](https://img.shields.io/d)\n"
    off = MarkdownStep(front_matter=False, badges=False, images=False, contents=False)
    assert without_boilerplate(text, off) == text
    assert without_boilerplate(text, off.model_copy(update={"badges": True})) == "---\nk: v\n---\n[TOC]\n![a](b)\n\n"


@given(st.text())
@example("ＡＢＣ１２３，！（）　＠ａｂ")
def test_width(text: str) -> None:
    narrow = changed(text, WidthStep())
    for before, after in zip(text, narrow, strict=True):
        full = (
            unicodedata.east_asian_width(before) == "F"
            and before.isalnum()
            and unicodedata.normalize("NFKC", before).isascii()
        )
        assert after == (unicodedata.normalize("NFKC", before) if full else before)
    assert changed("ＡＢ１，！　", WidthStep(punctuation=True)) == "AB1,! "


def test_simplified() -> None:
    assert (
        in_simplified("乾隆年間的著名後宮，頭髮發展，瞭解乾燥。皇后 ABC 😀")
        == "乾隆年间的著名后宫，头发发展，了解干燥。皇后 ABC 😀"
    )


def test_every_text_of_a_record_changes_and_an_unchanged_record_is_the_same() -> None:
    messages: list[Any] = [
        {"role": "user", "content": "<b>問</b>"},
        {"role": "assistant", "content": "答", "weight": 1.0},
    ]
    record = OPERATORS["html"].change(Conversation(messages), HtmlStep())
    assert record == Conversation([{"role": "user", "content": "問"}, messages[1]])


HOSTILE = (
    "<| [| `| (| ![| [a](| <b | &amp;| http://| - [a](#| <!--| <!---->| ---\n| <a x='| ](| <script>| &lt;a| '<a>| "
    "k:\n| - [a](#a)\n"
)


@pytest.mark.parametrize("piece", HOSTILE.split("| "))
def test_hostile_text_takes_no_longer(piece: str) -> None:
    text = piece * 20_000
    for change in (plain_text, unlinked, lambda given: without_boilerplate(given, MarkdownStep())):
        assert len(change(text)) <= len(text)


@pytest.mark.parametrize("part", ["zh/classical-00", "zh/law-00", "en/books-00"])
@pytest.mark.parametrize("change", [unlinked, lambda text: without_boilerplate(text, MarkdownStep())])
def test_prose_stays(shared_data: Path, part: str, change: Callable[[str], str]) -> None:
    source = SourceSettings(path=str(shared_data / "pretrain" / f"{part}.jsonl.zst"), limit=100)
    for record in read_records(source, "document", Counts()):
        assert isinstance(record, Document)
        assert change(record.text) == record.text
