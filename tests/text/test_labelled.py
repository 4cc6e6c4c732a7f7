"""Answers labelled good or bad by themselves, in the forms in which they are published."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.text.adapters.table import choose
from danlu.text.problems import BadRow
from danlu.text.records import Preference, Record

Row = dict[str, Any]


def said(*turns: str) -> list[dict[str, Any]]:
    """Messages from "role: content"."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def adapted(row: Row) -> tuple[str, list[Record]]:
    adapter = choose(row, "preference")
    return adapter.name, list(adapter.read(row))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "你好", "completion": "走开", "label": False},
        {"prompt": said("user: 你好"), "completion": said("assistant: 走开"), "label": False},
        {"messages": said("user: 你好", "assistant: 走开"), "kto_tag": False},
        {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "走开"}], "label": False},
    ],
)
def test_an_answer_with_its_verdict(row: Row) -> None:
    found, (record,) = adapted(row)
    assert isinstance(record, Preference)
    assert (found, record.messages) == ("labelled", said("user: 你好"))
    assert (record.chosen, record.rejected) == ([], said("assistant: 走开"))
    verdict = "kto_tag" if "kto_tag" in row else "label"
    (good,) = adapted({**row, verdict: True})[1]
    assert isinstance(good, Preference)
    assert (good.chosen, good.rejected) == (said("assistant: 走开"), [])
    with pytest.raises(BadRow):
        adapted({**row, verdict: "topic 7"})


def test_what_was_said_before_a_labelled_answer_stays() -> None:
    turns = said("system: Be kind", "user: hi", "assistant: Hello!", "user: 🙂?", "assistant: no")
    (record,) = adapted({"messages": turns, "label": True})[1]
    assert isinstance(record, Preference)
    assert (record.messages, record.chosen) == (turns[:4], turns[4:])
    (asked,) = adapted({"system": "简短", "prompt": "?", "response": "!", "label": True})[1]
    assert isinstance(asked, Preference)
    assert asked.messages == said("system: 简短", "user: ?")
