"""Steps for conversations: history, repeated turns, tags, unsuitable content; and all of them in a cleaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.ledger.counts import Counts
from danlu.text.clean import clean
from danlu.text.ops import history, tags, turns, unsuitable
from danlu.text.ops.said import age_of
from danlu.text.records import Conversation, Document, Preference, Record
from danlu.text.settings import CleanSettings, SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.dialogue import HistoryStep, TagsStep, TurnsStep, UnsuitableStep

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def talk(*said: str) -> list[Any]:
    """'u hello' is a user's message."""
    return [{"role": ROLES[text[0]], "content": text[2:]} for text in said]


def contents(record: Record) -> list[str]:
    assert not isinstance(record, Document)
    return [message["content"] for message in record.messages]


def test_newest_turns_stay() -> None:
    long = Conversation(talk("s 你是助手", "u 一二三", "a 四五六", "u 七八", "t 工具", "a 九", "u 十", "a 百"))
    assert history.cut(long, HistoryStep(characters=100)) is long
    assert contents(history.cut(long, HistoryStep(characters=11))) == ["你是助手", "七八", "工具", "九", "十", "百"]
    last = history.cut(long, HistoryStep(characters=1))
    assert contents(last) == ["你是助手", "十", "百"]
    assert history.measure([last, long], HistoryStep(characters=1)) == {"cut": [5, 0]}
    pair = Preference(talk("u 一二三", "a 四", "u 五"), talk("a 六七八九"), talk("a 十"))
    assert contents(history.cut(pair, HistoryStep(characters=8))) == ["五"]
    assert history.cut(pair, HistoryStep(characters=9)) is pair


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6), st.integers(1, 40), st.booleans()
)
def test_a_cut_history_is_the_longest_that_fits(sizes: list[tuple[int, int]], most: int, system: bool) -> None:
    said = [text for u, a in sizes for text in (f"u {'问' * u}", f"a {'答' * a}")]
    messages = talk(*(["s 系统"] if system else []), *said)
    cut = history.cut(Conversation(messages), HistoryStep(characters=most))
    assert isinstance(cut, Conversation)
    head, rest = cut.messages[:system], cut.messages[system:]
    assert head == messages[:system] and rest == messages[len(messages) - len(rest) :] and rest[0]["role"] == "user"
    total = sum(len(message["content"]) for message in cut.messages)
    assert total <= most or len(rest) == 2
    if len(cut.messages) < len(messages):
        before = messages[len(messages) - len(rest) - 2 : len(messages) - len(rest)]
        assert total + sum(len(message["content"]) for message in before) > most


def test_repeated_turns_go() -> None:
    question, answer = "请问北京今天的天气怎么样呢？", "北京今天晴，最高气温二十五度，适合出门走走。"
    record = Conversation(
        talk(
            *("s 你好", f"u {question}", f"a {answer}", "u 好的", "a 不客气"),
            *(f"u {question}！", "a 晴天，不冷不热，可以出去走走。"),  # another answer
            *("u 那上海呢，明天我要去上海出差了", f"a {answer}！", "u 好的", "a 不客气"),
        )
    )
    after = turns.change(record, TurnsStep())
    assert contents(after)[5:] == [f"{question}！", "晴天，不冷不热，可以出去走走。", "好的", "不客气"]
    assert after.meta == {"repeated": 1}
    assert turns.change(after, TurnsStep()) is after
    assert turns.measure([after, record], TurnsStep()) == {"repeated": [1, 1]}
    drop = TurnsStep(action="drop")
    assert turns.change(record, drop) is record
    assert turns.judge({"repeated": 2}, drop) == ("repeated turns", 2)
    assert turns.judge({"repeated": 2}, TurnsStep()) is None
    assert turns.repeated(record, TurnsStep(shortest=15)) == {4, 5}
    assert turns.repeated(record, TurnsStep(shortest=16)) == {4}
    pair = Preference(talk(f"u {question}", f"a {answer}", f"u {question}"), talk(f"a {answer}"), talk("a 坏"))
    assert turns.change(pair, TurnsStep()) is pair


@given(st.text("天气好的吗 ab", min_size=1, max_size=30), st.text("天气好的吗 ab", min_size=1, max_size=30))
def test_similarity_is_jaccards(left: str, right: str) -> None:
    def grams(text: str) -> set[str]:
        plain = "".join(text.lower().split())
        return {plain[at : at + 3] for at in range(max(1, len(plain) - 2))} if plain else set()

    a, b = grams(left), grams(right)
    wanted = bool(a) and bool(b) and len(a & b) / len(a | b) >= 0.6
    record = Conversation(talk("u 甲", f"a {left}", "u 乙", f"a {right}"))
    assert (turns.repeated(record, TurnsStep(similarity=0.6, shortest=1)) == {2}) == wanted


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("我今年25岁，坐标成都", {"age": "25-34", "region": "四川"}),
        ("我三十六岁了，是宝妈？我是一个宝妈", {"age": "35-44", "gender": "female", "group": "parent"}),
        ("本人女，23岁。今年考研", {"age": "18-24", "gender": "female"}),
        ("我是一个16岁的男生，上高二", {"age": "0-17", "gender": "male"}),
        ("我老公总是加班，我儿子三岁", {"gender": "female", "group": "parent"}),
        ("我在杭州上班，我是一名程序员", {"region": "浙江", "group": "programmer"}),
        ("我已经退休了，来自内蒙古包头，我是内蒙古人", {"region": "内蒙古", "group": "retired"}),
        ("I'm a 34-year-old woman. I'm a teacher", {"age": "25-34", "gender": "female", "group": "teacher"}),
        ("I live in Chicago and my wife likes it", {"gender": "male", "region": "Illinois"}),
        ("I'm a retired engineer", {"group": "retired"}),
        ("如果我是男生，我不是学生，她说“我今年25岁”", {}),
        ("我18岁时去了北京玩，我家在农村，他今年25岁", {}),
        ("我老公和我老婆", {}),  # two that contradict each other
        ("Imagine I'm a teacher. Not that I am a student.", {}),
        ("Rewrite in the third person.\nI am a teacher from Texas", {}),
        ("我今年28岁，是一名女程序员。", {"age": "25-34", "gender": "female", "group": "programmer"}),
        ("我是家庭主妇", {"gender": "female"}),
        ("我是女老师的学生", {}),
        ("I'm a male high school teacher from Texas.", {"gender": "male", "region": "Texas", "group": "teacher"}),
        ("我想去成都", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_users_say_of_themselves(said: str, found: dict[str, str]) -> None:
    record = tags.change(Conversation(talk(f"u {said}", "a 我是一名医生，我今年30岁")), TagsStep())
    assert {tag: made["value"] for tag, made in record.meta.get("tags", {}).items()} == found


def test_columns_go_before_rules_and_unsure_tags_are_left_out() -> None:
    messages = talk("u 我今年25岁，我老公是老师", "a 好")
    record = Conversation(messages, meta={"sex": "男", "user": {"age": 61}, "none": ""})
    after = tags.change(record, TagsStep(columns={"gender": "sex", "age": "user.age", "region": "none"}))
    assert after.meta["tags"] == {
        "age": {"value": "61", "confidence": 1.0, "by": "column"},
        "gender": {"value": "男", "confidence": 1.0, "by": "column"},
    }
    assert tags.measure([after, record], TagsStep()) == {
        "age": ["61", None], "gender": ["男", None], "region": [None, None], "group": [None, None],
    }  # fmt: skip
    sure = tags.change(record, TagsStep(least=0.9))
    assert sure.meta["tags"] == {"age": {"value": "25-34", "confidence": 0.95, "by": "rule"}}
    assert tags.change(record, TagsStep(find=["region"])) is record


@given(st.integers(0, 130))
def test_every_age_has_its_span(age: int) -> None:
    span = age_of(str(age))
    if span is None:
        assert age < 3 or age > 120
    else:
        low, _, high = span.rstrip("+").partition("-")
        assert int(low) <= age <= int(high or 120)


@pytest.fixture
def word_list(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("赌博\t1\tgambling\n色情\t1\tadult\nBadWord\t2\tabuse\n", "utf-8")
    return str(path)


def test_unsuitable_turns_and_sentences(word_list: str) -> None:
    record = Conversation(talk("s 赌博", "u 你好", "a 好", "u 教我赌博", "a 不行", "u BADWORD!", "a İ badwords 好"))
    documents = Document("春天来了。有人赌博。夏天也来了！A badword. The end.")
    drop, turn, mask = (
        UnsuitableStep.model_validate({"lists": [word_list], "action": action})
        for action in ("drop", "drop_turn", "mask")
    )
    assert unsuitable.change(record, drop) is record
    assert unsuitable.measure([record, documents], drop) == {"words": ["赌博, BadWord"] * 2, "removed": [0, 0]}
    assert unsuitable.judge({"words": "赌博"}, drop) == ("unsuitable words", "赌博")
    assert unsuitable.judge({"words": None}, drop) is None
    left = unsuitable.change(record, turn)
    assert contents(left) == ["赌博", "你好", "好"]
    cut = unsuitable.change(documents, turn)
    assert isinstance(cut, Document) and cut.text == "春天来了。夏天也来了！The end."
    assert unsuitable.measure([left, cut], turn) == {"words": [None, None], "removed": [2, 2]}
    masked = unsuitable.change(record, mask)
    assert contents(masked) == ["赌博", "你好", "好", "教我**", "不行", "*******!", "İ badwords 好"]
    assert unsuitable.change(masked, mask) is masked
    whole = Conversation(talk("u 赌博", "a 色情"))
    assert unsuitable.change(whole, turn) is whole  # nothing would be left: it is dropped
    gambling = UnsuitableStep(lists=[word_list], categories=["gambling"], roles=["user"])
    assert unsuitable.measure([whole, Conversation(talk("u 好", "a 赌博"))], gambling)["words"] == ["赌博", None]


@given(st.text())
def test_sentences_have_all_of_a_text(text: str) -> None:
    assert "".join(unsuitable.sentences(text)) == text


SCORERS = """
import numpy as np
def lengths(): return lambda texts: np.array([len(text) for text in texts])
def badness(word): return lambda texts: np.array([float(word in text) for text in texts])
def labels(): return lambda texts: np.array([[0.9, 0.1] if "裙" in text else [0.4, 0.6] for text in texts])
"""


def test_in_a_cleaning(tmp_path: Path, word_list: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dialogue_scorers.py").write_text(SCORERS, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    rows = [
        talk("u 呃，我今年25岁，坐标成都，电话13812345678", "a 好的"),
        talk("u 我喜欢裙子，坐标上海，上海很大很大很大", "a 是的", "u 再说一遍", "a 上海很大"),
        talk("u 教我赌博", "a 不行"),
        talk("u 你好", "a 你好", "u 坏的话题", "a 不说", "u 再见", "a 再见"),
        talk("u 坏", "a 坏"),
    ]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    steps: list[dict[str, Any]] = [
        {"op": "smooth"},
        {"op": "privacy"},
        {"op": "tags"},
        {"op": "tags_scored", "tag": "gender", "labels": ["female", "male"]},
        {"op": "unsuitable", "lists": [word_list]},
        {"op": "unsuitable_scored", "action": "drop_turn"},
        {"op": "turns"},
        {"op": "history_tokens", "tokens": 12},
    ]
    scorers: dict[str, dict[str, Any]] = {
        "tags_scored": {"function": "dialogue_scorers:labels", "arguments": {}},
        "unsuitable_scored": {"function": "dialogue_scorers:badness", "arguments": {"word": "坏"}},
        "history_tokens": {"function": "dialogue_scorers:lengths", "arguments": {}},
    }
    settings = CleanSettings.model_validate({"sources": [{"path": str(raw)}], "steps": steps, "workers": 1})
    clean(settings, tmp_path / "out", scorers)
    kept = list(read_records(SourceSettings(path=str(tmp_path / "out")), "conversation", Counts()))
    assert [contents(record) for record in kept[1:]] == [["再说一遍", "上海很大"], ["你好", "你好", "再见", "再见"]]
    first = kept[0]
    assert contents(first)[0].startswith("我今年25岁，坐标成都，电话154")
    assert first.meta["smoothed"] == {"fillers": 1} and first.meta["privacy"] == {"mobile": 1}
    assert first.meta["tags"]["age"]["value"] == "25-34" and "gender" not in first.meta["tags"]
    assert kept[1].meta["tags"]["gender"] == {"value": "female", "confidence": 0.9, "by": "classifier"}
    chosen = SourceSettings(path=str(tmp_path / "out"), where=["meta.tags.region.value == 四川"])
    assert len(list(read_records(chosen, "conversation", Counts()))) == 1
    unsure = SourceSettings(path=str(tmp_path / "out"), where=["meta.tags.region.confidence >= 0.99"])
    assert not list(read_records(unsure, "conversation", Counts()))
