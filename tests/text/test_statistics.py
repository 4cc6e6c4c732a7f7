"""Steps that measure: each statistic against slow plain Python, and what a threshold drops."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain import PIECES, lines_of, sentences_of, words_of

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.text.clean import clean
from danlu.text.function_words import CHINESE, ENGLISH
from danlu.text.kernels import Batch
from danlu.text.ops.keywords import read_list
from danlu.text.ops.table import OPERATORS
from danlu.text.records import Document, Record
from danlu.text.settings import CleanSettings, CleanSource, SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.base import Range, StepSettings
from danlu.text.steps.markup import HtmlStep, LinksStep, MarkdownStep, SimplifiedStep, WidthStep
from danlu.text.steps.statistics import (
    CharactersStep,
    KeywordsStep,
    LinesStep,
    RangesStep,
    RepetitionStep,
    TokensStep,
    WordsStep,
)

WORDS = [
    "the",
    "The",
    "OF",
    "don’t",
    "model",
    "模型",
    "的",
    "是",
    "训练",
    "𠀀",
    " ",
    " ",
    "，",
    "。",
    ". ",
    "\n",
    "- ",
    "• ",
    "…",
]
TEXT = st.lists(st.sampled_from(PIECES) | st.sampled_from(WORDS), max_size=40).map("".join)
TEXTS = st.lists(TEXT, max_size=5)


def measured(texts: list[str], step: StepSettings) -> list[dict[str, Any]]:
    """A row of values for each text, as plain Python has them."""
    columns = OPERATORS[step.op].measure(Batch(map(Document, texts)), step)
    rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def dropped(text: str, step: StepSettings) -> tuple[str, Any] | None:
    return OPERATORS[step.op].judge(measured([text], step)[0], step)


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def is_han(character: str) -> bool:
    name = unicodedata.name(character, "")
    return name.startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH")) or character in "々〇"


@given(TEXTS)
@example(["", "ＡＢ１２，。", "😀👨‍👩‍👧❤️", "①½Ⅳ", "\u200b\ue000\x00"])
def test_characters(texts: list[str]) -> None:
    for text, row in zip(texts, measured(texts, CharactersStep()), strict=True):
        kinds = [unicodedata.category(c) for c in text]
        marks = sum(
            k[0] == "M" and not re.match("[\ufe00-\ufe0f\U000e0100-\U000e01ef]", c)
            for k, c in zip(kinds, text, strict=True)
        )
        alphanumeric = sum(k[0] in "LN" for k in kinds) + marks
        blank = sum(map(str.isspace, text))
        wanted = {
            "alphanumeric": alphanumeric,
            "punctuation": sum(k[0] == "P" for k in kinds),
            "symbols": sum(k[0] == "S" for k in kinds),
            "digits": sum(map(str.isdecimal, text)),
            "special": len(text) - alphanumeric - blank,
            "han": sum(map(is_han, text)),
        }
        assert row == {name: share(count, len(text)) for name, count in wanted.items()}


@given(TEXTS)
@example(["- a\n-b\n* c\n• d\n等等。。。\n…\n...\n..", "}\n}\n", "你好。你好！ 你好"])
def test_lines(texts: list[str]) -> None:
    for text, row in zip(texts, measured(texts, LinesStep()), strict=True):
        lines = lines_of(text)
        wanted = {
            "count": len(lines),
            "average": share(sum(map(len, lines)), len(lines)),
            "longest": max(map(len, lines), default=0),
            "duplicate_lines": duplicates(lines),
            "duplicate_sentences": duplicates(sentences_of(text)),
            "ellipses": share(sum(line.endswith(("...", "…", "。。。")) for line in lines), len(lines)),
            "bullets": share(sum(bool(re.match(r"[•]|[-*+–—](\s|$)", line)) for line in lines), len(lines)),
        }
        assert row == wanted


def duplicates(items: list[str]) -> float:
    again = sum(len(item) for at, item in enumerate(items) if item in items[:at])
    return share(again, sum(map(len, items)))


@given(TEXTS)
def test_words(texts: list[str]) -> None:
    for text, row in zip(texts, measured(texts, WordsStep()), strict=True):
        words = words_of(text)
        single = [word for word in words if is_han(word[0]) or "KATAKANA" in (unicodedata.name(word[0], ""))]
        single += [word for word in words if "HIRAGANA" in unicodedata.name(word[0], "")]
        runs = len(words) - len(single)
        function = sum(word in CHINESE or word.replace("’", "'").lower() in ENGLISH for word in words)
        assert row["count"] == len(words)
        assert row["function_words"] == share(function, len(words))
        if runs:
            assert row["average_length"] == (sum(map(len, words)) - len(single)) / runs
        else:
            assert math.isnan(row["average_length"])


def repeated(units: list[str], n: int, places: list[tuple[int, int]]) -> int:
    """How many characters lie in n-grams that stood earlier."""
    seen, covered = set(), set()
    for at in range(len(units) - n + 1):
        gram = tuple(units[at : at + n])
        if gram in seen:
            covered |= set(range(places[at][0], places[at + n - 1][1]))
        seen.add(gram)
    return len(covered)


@given(TEXTS, st.integers(1, 4), st.integers(1, 3))
@example(["啦" * 50, "ab " * 30, "甲乙丙。" * 3], 10, 2)
def test_repetition(texts: list[str], character_n: int, word_n: int) -> None:
    step = RepetitionStep(character_n=character_n, word_n=word_n)
    for text, row in zip(texts, measured(texts, step), strict=True):
        dark = [c for c in text if not c.isspace()]
        covered = repeated(dark, character_n, [(at, at + 1) for at in range(len(dark))])
        assert row["characters"] == share(covered, len(dark))
        words, places, at = words_of(text), [], 0
        for word in words:
            at = text.index(word, at)
            places.append((at, at + len(word)))
            at += len(word)
        assert row["words"] == share(repeated(words, word_n, places), len(text))


@pytest.mark.parametrize("times", [2, 3, 10])
def test_repetition_of_a_text_said_over_and_over(times: int) -> None:
    for text in (
        "丹炉把生肉一样的文字炼成模型，火候到了才开炉。",
        "It was the best of times, it was the worst of times; ",
    ):
        row = measured([text * times], RepetitionStep())[0]
        assert row["characters"] == pytest.approx((times - 1) / times, abs=0.02)
        assert row["words"] == pytest.approx((times - 1) / times, abs=0.06)


JUNK = {
    "characters": ["═══╬═══ ░▒▓ ★☆★☆ ！！！？？？ ###", "<<<>>> {{}} [] () ;;;; &&& || 1"],
    "lines": ["点击查看更多内容\n" * 5, "Click here to subscribe now! " * 5],
    "repetition": ["加微信领红包" * 20, "buy cheap watches now " * 30],
}
GOOD = [
    "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。",
    "《红楼梦》第一回：甄士隐梦幻识通灵，贾雨村风尘怀闺秀。此开卷第一回也。",
    "def f(x):\n    if x:\n        return 1\n    else:\n        return 2\n",
    "I'm fine, thanks. 😀 How about you?",
    "是。",
    "",
    "| 列 | 值 |\n|---|---|\n| 重量 | 3.5 kg |\n| 长度 | 20 cm |",
]


@pytest.mark.parametrize("step", [CharactersStep(), LinesStep(), WordsStep(), RepetitionStep()], ids=lambda s: s.op)
def test_defaults_drop_junk_and_nothing_else(step: RangesStep) -> None:
    assert all(dropped(text, step) for text in JUNK.get(step.op, []))
    assert not any(dropped(text, step) for text in GOOD)


@pytest.mark.parametrize(
    "part", ["zh/articles-00", "zh/poetry-00", "zh/law-00", "zh/classical-00", "en/books-00", "en/specs-00"]
)
def test_defaults_keep_nearly_all_real_text(shared_data: Path, part: str) -> None:
    source = SourceSettings(path=str(shared_data / "pretrain" / f"{part}.jsonl.zst"), limit=200)
    batch = Batch(read_records(source, "document", Counts()))
    for step in (CharactersStep(), LinesStep(), WordsStep(), RepetitionStep()):
        columns = OPERATORS[step.op].measure(batch, step)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        assert sum(OPERATORS[step.op].judge(row, step) is not None for row in rows) <= 1


def test_each_bound_drops_by_its_own_name() -> None:
    text = "第一行。\n第二行有十个字啊啊……"
    steps: list[tuple[RangesStep, str]] = [
        (CharactersStep(han=Range(min=0.9)), "han too low"),
        (LinesStep(count=Range(min=3)), "count too low"),
        (LinesStep(ellipses=Range(max=0.3)), "ellipses too high"),
        (WordsStep(function_words=Range(max=0.01)), "function words too high"),
        (RepetitionStep(character_n=1, characters=Range(max=0)), "characters too high"),
    ]
    for step, reason in steps:
        assert (dropped(text, step) or ("", 0))[0] == reason
    assert dropped("全是汉字", WordsStep(average_length=Range(min=3, max=10))) is None


def test_only_thresholds_are_free_to_move() -> None:
    for step in (CharactersStep(), LinesStep(), WordsStep()):
        assert step.measuring() == {"op": step.op}
    assert set(RepetitionStep().measuring()) == {"op", "character_n", "word_n"}


def keywords(tmp_path: Path, text: str, words: str, **ranges: Range) -> tuple[dict[str, Any], tuple[str, Any] | None]:
    path = tmp_path / "words.txt"
    path.write_text(words, "utf-8")
    step = KeywordsStep(lists=[str(path)], **(ranges or {"count": Range(max=0)}))
    assert step.files() == [str(path)]
    row = measured([text], step)[0]
    return row, OPERATORS["keywords"].judge(row, step)


@pytest.mark.parametrize(
    ("text", "words", "count"),
    [
        ("我喜欢赌博，赌博害人", "赌博", 2),
        ("Ass, ASS! class assess ass", "ass", 3),
        ("他说sexy很好，asexy不算", "Sexy", 1),
        ("bad_word bad word", "bad word", 1),
        ("c++ c+++ xc++", "c++", 2),
        ("网络赌博", "赌博\n网络赌博", 2),
        ("№13 和 3", "3", 1),
        ("𠀀𠀀", "𠀀", 2),
        ("", "x", 0),
    ],
)
def test_keywords_are_whole_words_in_latin_and_anywhere_in_chinese(
    tmp_path: Path, text: str, words: str, count: int
) -> None:
    row, verdict = keywords(tmp_path, text, f"# a list\n\n{words}\n")
    assert row["count"] == count
    assert (verdict is not None) == (count > 0)


def test_keywords_have_weights_and_categories_and_are_named(tmp_path: Path) -> None:
    words = "赌博\t2\tgambling\r\ncasino\tgambling\n彩票\t0.5\n"
    row, verdict = keywords(tmp_path, "赌博，赌博，Casino 与彩票" + "。" * 484, words, density=Range(max=10))
    assert row["count"] == 5.5
    assert row["density"] == pytest.approx(11)
    assert verdict == ("density too high", {"value": 11, "words": "赌博 ×2 (gambling), casino (gambling), 彩票"})


def test_a_list_that_changed_is_read_again(tmp_path: Path) -> None:
    assert keywords(tmp_path, "红蓝", "红")[0]["words"] == "红"
    assert keywords(tmp_path, "红蓝", "蓝色\n蓝")[0]["words"] == "蓝"


@pytest.mark.parametrize(
    "content", [b"a\tmany\tb\n", b"a\t-1\n", b"\t1\n", b"a\t1\tb\tc\n", b"# none\n", b"\xff\xfe", b"a\tnan\n"]
)
def test_a_list_that_is_none_is_an_error_with_its_place(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"words\.txt"):
        read_list(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_list(tmp_path / "none.txt")


def test_keywords_without_a_threshold_are_refused() -> None:
    with pytest.raises(ValueError, match="no threshold"):
        KeywordsStep(lists=["a.txt"])


@given(TEXTS)
@settings(max_examples=20)
def test_tokens(texts: list[str]) -> None:
    records: list[Record] = [Document(text) for text in texts]
    step = TokensStep(count=Range(max=3), characters_per_token=Range(min=1))
    columns = OPERATORS["tokens"].score(records, step, lambda given: np.array([len(text.split()) for text in given]))
    for text, count, each in zip(texts, columns["count"], columns["characters_per_token"], strict=True):
        assert (count, each) == (len(text.split()), len(text) / max(1, len(text.split())))
        assert (OPERATORS["tokens"].judge({"count": count, "characters_per_token": each}, step) is None) == (
            count <= 3 and each >= 1
        )


def test_all_steps_run_in_clean_on_every_kind_of_record(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("赌博\tgambling\n", "utf-8")
    zh, en = "今天天气很好，我们去公园散步。", "The weather is fine today, so we went for a walk in the park."
    rows = {
        "documents": [
            {"text": zh},
            {"text": en},
            {"text": "买一送一\n" * 9},
            {"text": "<b>赌博</b>网站"},
            {"text": "♠♣♥♦" * 9},
        ],
        "chats": [{"messages": [{"role": "user", "content": zh}, {"role": "assistant", "content": en}]}],
        "pairs": [{"prompt": zh, "chosen": en, "rejected": "不知道。"}],
    }
    sources = []
    for name, made in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")
        sources.append(CleanSource(path=str(tmp_path / f"{name}.jsonl"), name=name))
    steps = [
        *(HtmlStep(), LinksStep(), MarkdownStep(), WidthStep(), SimplifiedStep(), CharactersStep(), LinesStep()),
        WordsStep(languages=["en"], average_length=Range(min=3, max=10)),
        *(RepetitionStep(), KeywordsStep(lists=[str(tmp_path / "words.txt")], count=Range(max=0))),
    ]
    clean(CleanSettings(sources=sources, steps=steps, workers=1), tmp_path / "out")
    counted = read_manifest(tmp_path / "out")["sources"]
    assert [counted[name]["kept"] for name in ("documents/documents", "conversations/chats", "preferences/pairs")] == [
        2,
        1,
        1,
    ]
    assert set(counted["documents/documents"]["dropped"]) == {
        "characters: special too high",
        "lines: duplicate lines too high",
        "keywords: count too high",
    }
