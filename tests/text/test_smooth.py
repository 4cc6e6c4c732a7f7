"""Spoken text smoothed: what goes, what stays, and the diff."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.ops.smooth import difference, measure, smooth, smooth_text
from danlu.text.records import Conversation, Document, Preference
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.dialogue import SmoothStep

STEP = SmoothStep()


@pytest.mark.parametrize(
    ("spoken", "smoothed"),
    [
        ("呃，我我我觉得，那个那个，还行吧。。", "我觉得，还行吧。"),
        ("那个，我想问一下", "我想问一下"),
        ("额，这个嘛", "这个嘛"),
        ("我嗯觉得可以", "我觉得可以"),
        ("好的，嗯，这个不错", "好的，这个不错"),
        ("嗯……我想去北京", "我想去北京"),
        ("啊啊啊啊我好难过", "啊我好难过"),
        ("然后然后就走了，因为，因为下雨", "然后就走了，因为下雨"),
        ("我，我不知道。。。", "我不知道……"),
        ("我觉得，就是，不太好", "我觉得，不太好"),
        ("你好！！！在吗？？ok,,好", "你好！在吗？ok,好"),
        ("65元，。真的！，好", "65元。真的！好"),
        ("嗯嗯嗯嗯嗯", "嗯嗯"),
        ("Um, I think the the cat, you know, is here!!!", "I think the cat is here!"),
        ("So, uh, what is it?", "So what is it?"),
        ("Yes, um, I do", "Yes, I do"),
        ("Hmm, maybe I I can", "Maybe I can"),
        ("Uh... 3 tickets and and a seat", "3 tickets and a seat"),
        ("𠀀，，😊！！", "𠀀，😊！"),
    ],
)
def test_noise_goes(spoken: str, smoothed: str) -> None:
    assert smooth_text(spoken, STEP) == smoothed


@pytest.mark.parametrize(
    "text",
    [
        "嗯", "嗯嗯。", "嗯，我会试试", "嗯...好的，我会", "嗯呢，好的", "呃。。。", "Um...", "uh-huh", "Uh oh, no",
        "天天看看妈妈哈哈哈哈谢谢谢谢", "这几天天天早上", "他是个个个体户", "好好好，对对对，不不不",
        "爸爸妈妈奶奶，慢慢慢慢走", "的的确确是目的的确认", "打呃和呃逆", "额度不够，金额，额头", "我要那个，谢谢",
        "这个，多少钱？", "有必要吗？嗯，有点", "理解我们，我们该做什么", "离开他们他们会难过",
        "听《爱爱爱》和《啊啊啊》", "她“嗯，”了一声", "真的？！", "等等……再说...",
        "`a，，b`，见 https://a.cn/b，，c", "```\nx = a ?? b!!\n我我我。。\n```", "$a，，b$", "you know what, go",
        "5 um, thick", "it had had that that", "he he he, my my, no no, bye bye", "gcd(b, b % a, a)",
        "A A B, plan a", "if (!!x) {}", "２０２４，３００", "",
    ],
)  # fmt: skip
def test_meaning_stays(text: str) -> None:
    assert smooth_text(text, STEP) == text


def test_a_conversations_first_word_is_no_answer() -> None:
    messages: list[Any] = [
        {"role": "system", "content": "嗯，，"},
        {"role": "user", "content": "嗯，你好，，"},
        {"role": "assistant", "content": "嗯，你好！！", "weight": 1.0},
    ]
    after = smooth(Conversation(messages), STEP)
    assert isinstance(after, Conversation)
    assert [message["content"] for message in after.messages] == ["嗯，，", "你好，", "嗯，你好！"]
    assert after.messages[2]["weight"] == 1.0
    assert after.meta["smoothed"] == {"fillers": 1, "punctuation": 2}
    assert measure([after, Document("a")], STEP) == {
        "fillers": [1, 0], "repeats": [0, 0], "punctuation": [2, 0], "slips": [0, 0],
    }  # fmt: skip
    only = smooth(Conversation(messages), SmoothStep(roles=["assistant"], punctuation=False))
    assert only.to_row()["messages"] == messages
    pair = smooth(Preference(messages[1:2], messages[2:], [{"role": "assistant", "content": "呃，好"}]), STEP)
    assert isinstance(pair, Preference) and pair.rejected[0]["content"] == "好"


def test_switches_and_words_to_keep() -> None:
    text = "呃，我我我说。。"
    assert smooth_text(text, SmoothStep(fillers=False)) == "呃，我说。"
    assert smooth_text(text, SmoothStep(repeats=False)) == "我我我说。"
    assert smooth_text(text, SmoothStep(punctuation=False)) == "我说。。"
    assert smooth_text("我我我乐队，，", SmoothStep(keep=["我我我乐队"])) == "我我我乐队，"


def test_slips_come_from_the_users_table(tmp_path: Path) -> None:
    table = tmp_path / "slips.txt"
    table.write_text("# wrong\tright\n因该\t应该\n怎么说呢，\t\nteh\tthe\n", "utf-8")
    step = SmoothStep(slips=str(table))
    counts: Counter[str] = Counter()
    assert smooth_text("怎么说呢，因该行。teh cat", step, counts=counts) == "应该行。the cat"
    assert counts == {"slips": 3}
    assert step.files() == [str(table)]
    for wrong in ("因该", "a\tab", "a\tb\tc"):
        table.write_text(wrong, "utf-8")
        with pytest.raises(UserError) as error:
            smooth_text("x", SmoothStep(slips=str(table)))
        assert str(table) in str(error.value)
    with pytest.raises(UserError):
        smooth_text("x", SmoothStep(slips=str(tmp_path / "absent")))


def test_common_slips_are_mended_unless_the_talk_is_about_them() -> None:
    def talk(*texts: str) -> Conversation:
        roles = ("user", "assistant")
        return Conversation([{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)])

    def said(*texts: str) -> list[str]:
        record = smooth(talk(*texts), SmoothStep())
        assert isinstance(record, Conversation)
        return [message["content"] for message in record.messages]

    assert said("我迫不急待，recieve了`recieve`。", "Definately, untill tommorow 🙂") == [
        "我迫不及待，receive了`recieve`。",
        "Definitely, until tomorrow 🙂",
    ]
    right = ["sandwich, sub-wich, 正在说，原因该查", "他一如既往"]
    assert said(*right) == right
    for question in ("找出错别字：一愁莫展", "Correct the spelling: recieve"):
        assert said(question, "迫不急待 recieve") == [question, "迫不急待 recieve"]
    assert smooth_text("一愁莫展", SmoothStep(slips=None)) == "一愁莫展"


_PIECES = (
    "嗯|呃|额|啊|那个|这个|就是|然后|我|我们|他|，|。|、|…|...|！|？|!|?|,| |\n|um|"
    "Um|uh|you know|the|I|and|like|hmm|好|是|"
    "天|看|哈|1|２|`|```|《|》|$|https://a.b|😊|a|，，|。。|\ue000"
)
SPOKEN = st.lists(st.sampled_from(_PIECES.split("|")) | st.text(max_size=2), max_size=12).map("".join)


@given(SPOKEN, st.booleans())
@example("嗯...好的", False)
@example("that, um, I, um, I um know", True)
@example("https://a.b`呃`", False)
def test_twice_is_once_and_numbers_and_code_stay(text: str, opening: bool) -> None:
    once = smooth_text(text, STEP, opening)
    assert smooth_text(once, STEP, opening) == once
    assert re.sub(r"\D", "", once) == re.sub(r"\D", "", text)
    code = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
    assert code.findall(once) == code.findall(text)
    assert once.strip() or not text.strip()


@given(SPOKEN, SPOKEN)
def test_a_diff_gives_both_texts_back(before: str, after: str) -> None:
    edits = difference(before, after)
    assert "".join(edit.text for edit in edits if edit.sign != "+") == before
    assert "".join(edit.text for edit in edits if edit.sign != "-") == after


def test_a_diff_is_by_characters_and_words() -> None:
    edits = difference("呃，我我觉得the the cat", "我觉得the cat")
    assert [tuple(edit) for edit in edits] == [
        ("-", "呃，我"), ("=", "我觉得the "), ("-", "the "), ("=", "cat"),
    ]  # fmt: skip
    assert difference("same", "same") == [("=", "same")]


@pytest.mark.parametrize(
    ("noise", "left"),
    [
        ("呃，{}", "{}"),
        ("那个那个，{}", "{}"),
        ("额，呃……{}", "{}"),
        ("然后然后{}", "然后{}"),
        ("我我我{}", "我{}"),
        ("{}。。", "{}。"),
        ("{}！！！", "{}！"),
    ],
)
def test_planted_noise_goes_from_real_turns(noise: str, left: str, shared_data: Path) -> None:
    source = SourceSettings(path=str(shared_data / "sft" / "crosswoz_zh.jsonl.zst"), limit=100)
    conversations = read_records(source, "conversation", Counts())
    turns = [message["content"].rstrip("。？！") for record in conversations for message in record.to_row()["messages"]]
    clean = [turn for turn in turns if smooth_text(turn, STEP) == turn and turn[:1] not in "嗯啊我然就那这呃"]
    assert len(clean) > 500
    mended = [smooth_text(noise.format(turn), STEP) == left.format(turn) for turn in clean]
    assert sum(mended) >= 0.99 * len(clean)
