"""Cleaning steps one by one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.ledger.counts import Counts
from danlu.text.cleaning.columns import FindingsReader
from danlu.text.ops import exact_dedup, language, length
from danlu.text.ops.normalise import normal_text, normalise
from danlu.text.records import Conversation, Document, Preference
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.basic import ExactDedupStep, LanguageStep, LengthStep, NormaliseStep

STEP = NormaliseStep()
AWKWARD = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\r\n \t\u3000\u00a0\u200b\ufeff\u200d\u2028\x00\x85é́👨"),
    max_size=60,
)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("一\r\n二\r三\u2028四", "一\n二\n三\n四"),
        ("\ufeffzero\u200bwidth\x00 bell\x07", "zerowidth bell"),
        ("a\u00a0b  \t\n\n\n\n\n\nc\n", "a b\n\n\nc"),
        ("\n\n    def f():\n        pass\n\n", "    def f():\n        pass"),
        ("　　春眠，“不觉晓”！？", "　　春眠，“不觉晓”！？"),
        ("👨‍👩‍👧 क्‍ष", "👨‍👩‍👧 क्‍ष"),
        ("e\u0301", "é"),
        ("①㎏Ａ", "①㎏Ａ"),
    ],
)
def test_normal_text(raw: str, wanted: str) -> None:
    assert normal_text(raw, STEP) == wanted


@given(AWKWARD)
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normal_text(text, STEP)
    assert normal_text(once, STEP) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in once)
    kept = [character for character in once if character.isalnum()]
    assert kept == [
        character
        for character in unicodedata.normalize("NFC", normal_text(text, NormaliseStep(nfc=False)))
        if character.isalnum()
    ]


def test_switches_leave_their_part_alone() -> None:
    assert normal_text("e\u0301 \n", NormaliseStep(nfc=False)) == "e\u0301"
    assert normal_text(" a  \n\n\n\n\nb\n", NormaliseStep(whitespace=False)) == " a  \n\n\n\n\nb\n"


def test_every_text_of_a_record_is_normalised_and_nothing_else() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"raw": "a\r"}}}
    messages: list[Any] = [
        {"role": "user", "content": "a\r\n"},
        {"role": "assistant", "content": "b\x00", "reasoning_content": "c\u200b", "tool_calls": [call], "weight": 0.0},
    ]
    clean: list[Any] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "c", "tool_calls": [call], "weight": 0.0},
    ]
    assert normalise(Conversation(messages), STEP) == Conversation(clean)
    pair = Preference(messages[:1], messages[1:], messages[1:])
    assert normalise(pair, STEP) == Preference(clean[:1], clean[1:], clean[1:])


@given(st.lists(st.text(max_size=9), min_size=1, max_size=5), st.integers(0, 9), st.integers(1, 9))
def test_length(texts: list[str], least: int, span: int) -> None:
    step = LengthStep(min=least, max=least + span)
    for text, value in zip(texts, length.measure([Document(text) for text in texts], step)["characters"], strict=True):
        verdict = length.judge({"characters": value}, step)
        assert (verdict is None) == (least <= len(text) <= least + span)
        assert verdict is None or verdict[1] == len(text)


LANGUAGES = {
    "zh": [
        "绿豆糕",
        "春眠不觉晓，处处闻啼鸟。",
        "使用 Python 编写一个快速排序算法，并解释其时间复杂度。",
        "調整商品服務稅等舉措",
        "设 α、β 为锐角，求 sin α。",
    ],
    "en": [
        "hi",
        "who are you?",
        "The quick brown fox jumps over the lazy dog.",
        "In 2008 he moved to 北京 and then he wrote a very long English book about it, with many many words in it.",
    ],
    "mixed": ["How do you say good morning and thank you in Chinese? 早上好，谢谢"],
    "other": [
        "Le renard brun saute par-dessus le chien paresseux, et il fait beau aujourd'hui.",
        "これは長い一日です。",
        "Сегодня хорошая погода, и мы идём гулять.",
        "오늘은 날씨가 아주 좋습니다",
        "По-китайски «середина» пишется 中, и это слово состоит из одного иероглифа, который знают все.",
        "1 + 1 = 2",
        "",
    ],
}


@pytest.mark.parametrize(("wanted", "text"), [(name, text) for name, texts in LANGUAGES.items() for text in texts])
def test_languages(wanted: str, text: str) -> None:
    columns = language.measure([Document(text)], LanguageStep())
    values = {name: column[0] for name, column in columns.items()}
    assert language.language_of(values, LanguageStep()) == wanted
    assert (language.judge(values, LanguageStep(keep=[wanted])) is None) and language.judge(
        values, LanguageStep(keep=[])
    )


@pytest.mark.parametrize(("text", "stays"), [("71/72=？", True), ("😀😀！！", True), (LANGUAGES["other"][0], False)])
def test_text_without_letters_may_be_kept_beside_languages(text: str, stays: bool) -> None:
    step = LanguageStep(keep=["zh", "none"])
    columns = language.measure([Document(text)], step)
    assert (language.judge({name: column[0] for name, column in columns.items()}, step) is None) == stays


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("pretrain/zh/articles-00.jsonl.zst", {"zh", "mixed"}),
        ("pretrain/zh/poetry-00.jsonl.zst", {"zh"}),
        ("pretrain/en/articles-00.jsonl.zst", {"en"}),
    ],
)
def test_languages_of_real_documents(shared_data: Path, path: str, wanted: set[str]) -> None:
    source = SourceSettings(path=str(shared_data / path), limit=300)
    columns = language.measure(list(read_records(source, "document", Counts())), LanguageStep())
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    right = sum(language.language_of(row, LanguageStep()) in wanted for row in rows)
    assert right >= 0.99 * len(rows)


@dataclass
class Hashes:
    """A part of which only hashes are known."""

    number: int
    hashes: list[int]

    @property
    def source(self) -> str:
        return f"source {self.number}"

    def columns(self, names: list[str]) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        for start in range(0, len(self.hashes), 4):
            rows = np.arange(start, min(start + 4, len(self.hashes)))
            yield rows, {"hash": pa.array(np.array(self.hashes, np.uint64)[rows])}

    def origins(self, rows: np.ndarray) -> list[str]:
        assert (np.diff(rows) > 0).all()
        return [f"{self.number}:{row}" for row in rows]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=6), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_twins_are_all_but_the_first(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[list[int]], buckets: int
) -> None:
    folder = tmp_path_factory.mktemp("twins")
    parts: list[Any] = [Hashes(task, hashes) for task, hashes in enumerate(tasks)]
    files = [str(folder / f"twins-{bucket}.parquet") for bucket in range(buckets)]
    for bucket, file in enumerate(files):
        exact_dedup.find_twins(parts, bucket, buckets, file)
    first: dict[int, str] = {}
    for task, hashes in enumerate(tasks):
        wanted = {}
        for row, value in enumerate(hashes):
            if value in first:
                wanted[row] = first[value]
            first.setdefault(value, f"{task}:{row}")
        found = FindingsReader(files, task).take(np.arange(len(hashes)))
        assert found == {
            row: {"twin": twin, "source": f"source {twin.partition(':')[0]}"} for row, twin in wanted.items()
        }


def test_a_duplicate_names_its_first() -> None:
    twin = {"twin": "a.jsonl:3", "source": "web"}
    assert exact_dedup.judge({"hash": 1, **twin}, ExactDedupStep()) == ("duplicate", twin)
    assert exact_dedup.judge({"hash": 1, "twin": None, "source": None}, ExactDedupStep()) is None
