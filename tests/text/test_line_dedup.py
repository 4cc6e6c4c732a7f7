"""Lines in many records against plain Python: which go, what is left, what is shown."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gathered import gather, meta_of
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import class_of

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.text.clean import clean
from danlu.text.kernels import Class
from danlu.text.ops.contents import text_of
from danlu.text.ops.line_dedup import edit, judge
from danlu.text.readers import read_rows
from danlu.text.records import Conversation, Document, Preference, Record
from danlu.text.settings import CleanSettings
from danlu.text.steps.base import Range
from danlu.text.steps.duplicates import LineDedupStep

NOTICE = "版权所有，未经许可不得转载。"
MENU = "Home | Products | About us | Contact us today"


def letters(text: str) -> int:
    """Bytes of letters and digits."""
    return sum(len(c.encode()) for c in text if Class.LETTER <= class_of(c) <= Class.FUNCTION)


def counted(text: str, shortest: int) -> list[tuple[int, str]]:
    """(number, line) of the lines that count, by a plain walk through a Markdown text."""
    found, fence = [], ""
    for number, line in enumerate(text.split("\n")):
        inner = line.strip()
        code = line.startswith(("    ", "\t"))
        mark = re.match(r"```+|~~~+", inner)
        if fence:
            if mark and not code and mark[0].startswith(fence) and inner == mark[0]:
                fence = ""
            continue
        if mark and not code and not (mark[0][0] == "`" and "`" in inner[len(mark[0]) :]):
            fence = mark[0]
            continue
        if inner and not code and letters(inner) >= shortest:
            found.append((number, inner))
    return found


def plain(texts: list[str], step: LineDedupStep) -> list[str]:
    """The texts without the lines that stand in more than `max` of them."""
    own = [counted(text, step.shortest) for text in texts]
    times = Counter(line for lines in own for line in {line for _, line in lines})
    seen: set[str] = set()
    left = []
    for text, lines in zip(texts, own, strict=True):
        gone = {n for n, line in lines if times[line] > step.max and (step.keep == "none" or line in seen)}
        seen |= {line for _, line in lines}
        rows = text.split("\n")
        kept = [row + "\n" for n, row in enumerate(rows) if n not in gone]
        # The last line has no line end of its own.
        left.append("".join(kept) if len(rows) - 1 in gone else "".join(kept)[:-1])
    return left


def edited(texts: list[str] | list[Record], found: dict[int, dict[str, Any]], step: LineDedupStep) -> list[Record]:
    records = [Document(text) if isinstance(text, str) else text for text in texts]
    return [edit(record, found[at], step) if at in found else record for at, record in enumerate(records)]


LINES = st.sampled_from(
    [NOTICE, MENU, " " + MENU + "  ", "    " + MENU, "\t" + NOTICE, "　　" + NOTICE, "```", "~~~~", "```python",
     "``` a ```", "````", "", "  ", "短", "one of a kind", "第一行文字在这里写完", "=" * 40, "𠀀𠀁𠀂𠀃"]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=10).map("\n".join)


@settings(deadline=None, max_examples=30)
@given(st.lists(TEXTS, max_size=12), st.integers(1, 4), st.sampled_from(["none", "first"]), st.sampled_from([1, 9, 16]))
def test_lines_go_as_in_plain_python(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], most: int, keep: Any, shortest: int
) -> None:
    step = LineDedupStep(max=most, keep=keep, shortest=shortest)
    found = gather(texts, step, tmp_path_factory.mktemp("lines"), 5)
    wanted = plain(texts, step)
    assert [text_of(record) for record in edited(texts, found, step)] == wanted
    for at, (text, left) in enumerate(zip(texts, wanted, strict=True)):
        assert (at in found) == (text != left)
        if at in found:
            assert found[at]["left"] == pytest.approx(len(left) / len(text))


def test_sentences_go_with_the_blanks_behind_them(tmp_path: Path) -> None:
    step = LineDedupStep(unit="sentence", max=1, keep="first", shortest=12)
    texts = [
        "他说：“今天的天气真好！”我也这样想。Click here to subscribe. Bye.",
        "今天的天气真好！明天呢？Click here to subscribe. Really?\nClick here to subscribe.\n他说：“今天的天气真好！”",
        "```\nClick here to subscribe.\n```\n    今天的天气真好！",
    ]
    found = gather(texts, step, tmp_path / "lines")
    assert [text_of(record) for record in edited(texts, found, step)] == [
        texts[0],
        "今天的天气真好！明天呢？Really?\n\n",
        texts[2],
    ]


def test_the_cut_into_tasks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["\n".join(f"第{n % (7 + at % 5)}行是一样的文字内容" for n in range(at % 9)) for at in range(120)]
    step = LineDedupStep(max=10)
    whole = gather(texts, step, tmp_path / "whole")
    monkeypatch.setattr("danlu.text.ops.sorted_files.STRETCH", 40)
    monkeypatch.setattr("danlu.text.ops.line_dedup.STRETCH", 100)
    cut = gather(texts, step, tmp_path / "cut", 11)
    assert len(whole) > 50 and whole.keys() == cut.keys()
    for at, values in whole.items():
        assert sorted(values["removed"]) == sorted(cut[at]["removed"]) and values["left"] == cut[at]["left"]
    assert sorted(meta_of(tmp_path / "whole")["lines"]) == sorted(meta_of(tmp_path / "cut")["lines"])


def test_the_most_frequent_lines_are_shown(tmp_path: Path) -> None:
    texts = [f"正文第{n}段，各不相同的内容。\n  {NOTICE}" + (f"\n{MENU}" if n % 2 else "") for n in range(40)]
    gather(texts, LineDedupStep(), tmp_path / "lines", 9)
    assert meta_of(tmp_path / "lines")["lines"] == [[NOTICE, 40], [MENU, 20]]


def test_too_little_left_drops_the_record() -> None:
    step = LineDedupStep(left=Range(min=0.5))
    assert judge({"left": 0.4}, step) == ("text left too low", 0.4)
    assert judge({"left": 0.5}, step) is None and judge({"left": None}, step) is None


def test_five_thousand_of_one_text(tmp_path: Path) -> None:
    texts = [f"{MENU}\n{NOTICE}"] * 5000
    found = gather(texts, LineDedupStep(), tmp_path / "a")
    assert len(found) == 5000 and all(values["left"] == 0 for values in found.values())
    found = gather(texts, LineDedupStep(max=1, keep="first"), tmp_path / "b")
    assert sorted(found) == list(range(1, 5000))


@pytest.mark.parametrize("texts", [[], ["", "一", "\n\n", "a"], [""] * 50])
def test_nothing_to_compare(tmp_path: Path, texts: list[str]) -> None:
    assert gather(texts, LineDedupStep(shortest=1), tmp_path / "lines") == {}


def test_messages_lose_their_own_lines(tmp_path: Path) -> None:
    def turns(question: str, answer: str) -> list[Any]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "weight": 0.0}]

    mark = "（本回答由人工智能生成，仅供参考）"
    records: list[Record] = [Conversation(turns(f"问题{n}？", f"```\n{n}\n```\n答案{n}。\n{mark}")) for n in range(4)]
    records.append(
        Preference(turns("问？", "答。")[:1], turns("", f"好。\n{mark}")[1:], turns("", f"{mark}\n坏。")[1:])
    )
    step = LineDedupStep(max=2, kinds=["conversation", "preference"])
    after = edited(records, gather(records, step, tmp_path / "lines", 2), step)
    assert [text_of(record) for record in after] == [
        *(f"问题{n}？\n```\n{n}\n```\n答案{n}。\n" for n in range(4)),
        "问？\n好。\n\n坏。",
    ]
    assert isinstance(after[0], Conversation) and after[0].messages[1]["weight"] == 0.0


SYSTEM = "You are a helpful assistant.\nAnswer in the language of the question, please."
QUESTION = "请把下面这句话翻译成英文并解释它的意思。"


def asked(number: int) -> list[Any]:
    answer = f"第{number}个回答，有它自己的内容。\n以上内容由人工智能生成，仅供参考。"
    messages = [("system", SYSTEM), ("user", QUESTION), ("tool", f"{MENU}\n{number}"), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in messages]


def test_conversations_are_left_alone_by_default(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    rows = [asked(n) for n in range(9)]
    for row in rows:
        row[2] = {
            "role": "assistant",
            "content": "稍等。",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        }
        row.insert(3, {"role": "tool", "tool_call_id": "1", "content": MENU})
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), "utf-8")
    settings = {"sources": [{"path": str(file)}], "steps": [{"op": "line_dedup", "max": 3}], "workers": 1}
    clean(check(CleanSettings, settings), tmp_path / "out")
    kept = [row.fields["messages"] for row in read_rows(tmp_path / "out" / "conversations")]
    assert [[m["content"] for m in row] for row in kept] == [[m["content"] for m in row] for row in rows]


@pytest.mark.parametrize("unit", ["line", "sentence"])
def test_system_prompts_tools_and_set_questions_stay(tmp_path: Path, unit: Any) -> None:
    records: list[Record] = [Conversation(asked(n)) for n in range(9)]
    step = LineDedupStep(max=3, kinds=["conversation"], unit=unit, shortest=12)
    after = edited(records, gather(records, step, tmp_path / "lines", 4), step)
    for number, record in enumerate(after):
        assert isinstance(record, Conversation)
        contents = [message["content"] for message in record.messages]
        assert contents[:3] == [SYSTEM, QUESTION, f"{MENU}\n{number}"]
        assert contents[3].strip() == f"第{number}个回答，有它自己的内容。"
    only_users = LineDedupStep(max=3, kinds=["conversation"], roles=["user"], unit=unit, shortest=12)
    assert gather(records, only_users, tmp_path / "users", 4) == {}


def test_no_message_is_left_empty(tmp_path: Path) -> None:
    question = f"{QUESTION}\n只要译文，不要任何多余的话。"
    records: list[Record] = [
        Conversation([{"role": "user", "content": question}, {"role": "assistant", "content": f"第{n}句。"}])
        for n in range(9)
    ]
    step = LineDedupStep(max=3, kinds=["conversation"])
    found = gather(records, step, tmp_path / "lines")
    assert len(found) == 9 and edited(records, found, step) == records
    assert all(values["left"] == 1 for values in found.values()), "a line that stays does not count as gone"


MESSAGES = st.lists(LINES, min_size=1, max_size=4).map("\n".join)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.tuples(MESSAGES, MESSAGES), min_size=1, max_size=3), min_size=1, max_size=8),
    st.integers(1, 3), st.sampled_from(["line", "sentence"]), st.sampled_from([["user"], ["user", "assistant"]]),
)  # fmt: skip
def test_left_is_what_the_edit_leaves(
    tmp_path_factory: pytest.TempPathFactory, chats: Any, most: int, unit: Any, roles: Any
) -> None:
    step = LineDedupStep(max=most, kinds=["conversation"], unit=unit, roles=roles, shortest=9)
    records: list[Record] = [
        Conversation(
            [{"role": r, "content": c} for turn in chat for r, c in zip(("user", "assistant"), turn, strict=True)]
        )
        for chat in chats
    ]
    found = gather(records, step, tmp_path_factory.mktemp("lines"), 3)
    for at, after in enumerate(edited(records, found, step)):
        if at in found:
            before, left = len(text_of(records[at])), len(text_of(after))
            # Behind the last line of a message stands the line end between two messages, which is never taken.
            assert found[at]["left"] * before == pytest.approx(left, abs=2 * len(chats[at]))


def test_a_later_step_sees_what_is_left(tmp_path: Path) -> None:
    file = tmp_path / "pages.jsonl"
    rows = [{"text": f"{MENU}\n第{n}篇文章的正文，有它自己的内容。\n{NOTICE}"} for n in range(8)]
    rows += [{"text": f"{MENU}\n{NOTICE}"}, {"text": f"{MENU}\n短文"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    steps: list[Any] = [
        {"op": "line_dedup", "max": 3, "left": {"min": 0.1}},
        {"op": "normalise"},
        {"op": "length", "max": 20},
    ]
    clean(check(CleanSettings, {"sources": [{"path": str(file)}], "steps": steps, "workers": 1}), tmp_path / "out")
    kept = [row.fields["text"] for row in read_rows(tmp_path / "out" / "documents")]
    assert kept == [f"第{n}篇文章的正文，有它自己的内容。" for n in range(8)]
    dropped = [row.fields for row in read_rows(tmp_path / "out" / "dropped")]
    assert [(row["step"], row["reason"]) for row in dropped] == [("line_dedup", "text left too low")] * 2
    assert [row["value"] for row in dropped] == pytest.approx([0.0, 2 / 48])


def test_no_record_may_be_kept_in_less_than_one() -> None:
    with pytest.raises(UserError, match="max"):
        check(LineDedupStep, {"op": "line_dedup", "max": 0})
