"""Every schema, in rows as they are published, becomes the record that a person would write down for it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from danlu.ledger.counts import Counts
from danlu.text.adapters.table import ADAPTERS, choose, kinds
from danlu.text.problems import BadRow
from danlu.text.readers import read_rows
from danlu.text.records import Conversation, Document, Preference, Record
from danlu.text.settings import AdapterName, Kind, SourceSettings
from danlu.text.source import read_records

Row = dict[str, Any]


def said(*turns: str) -> list[dict[str, Any]]:
    """Messages from "role: content"."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def adapted(row: Row, kind: Kind) -> tuple[str, list[Record]]:
    adapter = choose(row, kind)
    return adapter.name, list(adapter.read(row))


WEATHER = {"name": "weather", "arguments": {"city": "杭州"}}
WEATHER_CALL = {"type": "function", "function": WEATHER}
WEATHER_TOOL = {"name": "weather", "description": "天气", "parameters": {"type": "object", "properties": {}}}


def moss_turn(human: str, thoughts: str, commands: str, results: str, answer: str) -> dict[str, str]:
    return {
        "Human": f"<|Human|>: {human}<eoh>\n",
        "Inner Thoughts": f"<|Inner Thoughts|>: {thoughts}<eot>\n",
        "Commands": f"<|Commands|>: {commands}<eoc>\n",
        "Tool Responses": f"<|Results|>: {results}<eor>\n",
        "MOSS": f"<|MOSS|>: {answer}<eom>\n",
    }


CONVERSATIONS: list[tuple[str, Row, list[dict[str, Any]]]] = [
    ("alpaca", {"instruction": "写诗", "input": "", "output": "好"}, said("user: 写诗", "assistant: 好")),
    (
        "alpaca",
        {"instruction": "Add", "input": "1+1", "output": "2", "system": "Sum", "history": [["hi", "你好"]]},
        said("system: Sum", "user: hi", "assistant: 你好", "user: Add\n1+1", "assistant: 2"),
    ),
    (
        "belle_turns",
        {"instruction": "Human:你好\nAssistant:您好！\nHuman: 写诗\nAssistant:\n", "input": "", "output": "白日"},
        said("user: 你好", "assistant: 您好！", "user: 写诗", "assistant: 白日"),
    ),
    (
        "dolly",
        {"instruction": "Who?", "context": "Li Bai wrote it.", "response": "Li Bai", "category": "closed_qa"},
        said("user: Who?\nLi Bai wrote it.", "assistant: Li Bai"),
    ),
    ("firefly_tasks", {"kind": "NLI", "input": "问", "target": "答"}, said("user: 问", "assistant: 答")),
    (
        "firefly",
        {"conversation_id": 1, "category": "x", "conversation": [{"human": "问", "assistant": "答"}] * 2},
        said("user: 问", "assistant: 答", "user: 问", "assistant: 答"),
    ),
    (
        "sharegpt",  # Infinity-Instruct, BELLE 3.5M ("assistant" for "gpt")
        {
            "id": 1,
            "conversations": [{"from": "human", "value": "1+1?"}, {"from": "assistant", "value": "2"}],
            "label": {"ability_en": ["math"]},
            "langdetect": "en",
            "reward": 3.5,
        },
        said("user: 1+1?", "assistant: 2"),
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "杭州天气"},
                {"from": "function_call", "value": json.dumps(WEATHER)},
                {"from": "observation", "value": "晴"},
                {"from": "gpt", "value": "晴天"},
            ],
            "system": "助手",
            "tools": json.dumps([WEATHER_TOOL]),
        },
        [
            *said("system: 助手", "user: 杭州天气"),
            {"role": "assistant", "content": "", "tool_calls": [WEATHER_CALL]},
            *said("tool: 晴", "assistant: 晴天"),
        ],
    ),
    (
        "openai",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "杭州"}, {"type": "text", "text": "天气"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {**WEATHER, "arguments": '{"city": "杭州"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "晴"},
                {
                    "role": "assistant",
                    "content": "晴天",
                    "weight": 0,
                    "reasoning_content": "看结果",
                    "tool_calls": None,
                },
            ],
            "tools": [{"type": "function", "function": WEATHER_TOOL}],
        },
        [
            *said("user: 杭州天气"),
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **WEATHER_CALL}]},
            {"role": "tool", "content": "晴", "tool_call_id": "c1"},
            {"role": "assistant", "content": "晴天", "reasoning_content": "看结果", "weight": 0.0},
        ],
    ),
    (
        "moss",
        {
            "conversation_id": "1",
            "meta_instruction": "You are MOSS.\n",
            "num_turns": 2,
            "chat": {
                "turn_10": moss_turn("再见", "None", "None", "None", "再见！"),
                "turn_2": moss_turn(
                    "算", "要算两次", 'Calculate("(1+2)*3"), Search("a, b")', 'Calculate("(1+2)*3") => 9', "9"
                ),
            },
        },
        [
            *said("system: You are MOSS.", "user: 算"),
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "要算两次",
                "tool_calls": [
                    {"type": "function", "function": {"name": "Calculate", "arguments": {"input": "(1+2)*3"}}},
                    {"type": "function", "function": {"name": "Search", "arguments": {"input": "a, b"}}},
                ],
            },
            *said('tool: Calculate("(1+2)*3") => 9', "assistant: 9", "user: 再见", "assistant: 再见！"),
        ],
    ),
    ("questions", {"question": "李白是谁?", "answer": "诗人"}, said("user: 李白是谁?", "assistant: 诗人")),
    ("questions", {"prompt": "Who?", "completion": "Me"}, said("user: Who?", "assistant: Me")),
]

HH = "\n\nHuman: hi\n\nAssistant: Hello!\n\nHuman: 再见\n\nAssistant: "
ASKED = {"role": "user", "content": "问"}
PREFERENCES: list[tuple[str, Row, list[Row]]] = [
    ("hh", {"chosen": HH + "再见！", "rejected": HH + "no"}, said("user: hi", "assistant: Hello!", "user: 再见")),
    (
        "message_pairs",  # Infinity-Preference, Firefly
        {"prompt": "问", "chosen": [ASKED, *said("assistant: 再见！")], "rejected": [ASKED, *said("assistant: no")]},
        [ASKED],
    ),
    (
        "message_pairs",
        {"prompt": "问", "chosen": said("assistant: 再见！"), "rejected": said("assistant: no")},
        [ASKED],
    ),
    ("prompt_pairs", {"prompt": [ASKED], "chosen": "再见！", "rejected": "no", "lang": "zh"}, [ASKED]),
    (
        "prompt_pairs",
        {"system": "S", "question": "问", "chosen": "再见！", "rejected": "no"},
        said("system: S", "user: 问"),
    ),
    (
        "comparisons",
        {
            "user_input": "问",
            "responses_and_scores": [
                {"response": "meh", "source": "a", "score": 4.0},
                {"response": "no", "source": "b", "score": 1.0},
                {"response": "再见！", "source": "gpt4", "score": 9.0},
            ],
        },
        [ASKED],
    ),
    ("ranked_alpaca", {"instruction": "问", "input": "", "chosen": "再见！", "rejected": "no"}, [ASKED]),
    ("ranked_alpaca", {"instruction": "问", "input": "", "output": ["再见！", "no"]}, [ASKED]),
    (
        "ranked_turns",
        {
            "conversations": [{"from": "human", "value": "问"}],
            "chosen": {"from": "gpt", "value": "再见！"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        [ASKED],
    ),
]


def assistant(text: str, rank: int | None, *replies: Row) -> Row:
    return {"text": text, "role": "assistant", "rank": rank, "replies": list(replies)}


def prompter(text: str, *replies: Row) -> Row:
    return {"text": text, "role": "prompter", "replies": list(replies)}


TREE = {
    "message_tree_id": "t",
    "prompt": prompter(
        "问",
        assistant("worst", 2),
        assistant("best", 0, prompter("more?", assistant("yes", None)), prompter("unanswered")),
        assistant("middle", 1),
        {**assistant("spam", 3), "deleted": True},
    ),
}


@pytest.mark.parametrize(("name", "row", "messages"), CONVERSATIONS)
def test_conversations(name: str, row: Row, messages: list[Row]) -> None:
    found, (record,) = adapted(row, "conversation")
    assert isinstance(record, Conversation)
    assert (found, record.messages) == (name, messages)
    if "tools" in row:
        assert record.tools == [{"type": "function", "function": WEATHER_TOOL}]


@pytest.mark.parametrize(("name", "row", "messages"), PREFERENCES)
def test_preferences(name: str, row: Row, messages: list[Row]) -> None:
    found, (record,) = adapted(row, "preference")
    assert isinstance(record, Preference)
    assert (found, record.messages) == (name, messages)
    assert (record.chosen, record.rejected) == (said("assistant: 再见！"), said("assistant: no"))


def test_oasst_trees_give_every_path_or_ranked_pairs() -> None:
    name, paths = adapted(TREE, "conversation")
    assert name == "oasst"
    assert [path.messages for path in paths] == [
        said("user: 问", "assistant: worst"),
        said("user: 问", "assistant: best", "user: more?", "assistant: yes"),
        said("user: 问", "assistant: middle"),
    ]
    (pair,) = adapted(TREE, "preference")[1]
    assert pair == Preference([ASKED], said("assistant: best"), said("assistant: worst"))


@pytest.mark.parametrize(
    "row", [{"text": "正文 text"}, {"content": "正文 text"}, {"kind": "document", "text": "正文 text"}]
)
def test_documents(row: Row) -> None:
    assert adapted(row, "document")[1] == [Document("正文 text")]


@pytest.mark.parametrize(
    "record",
    [
        Document("字", "s", {"n": 1}),
        Conversation(said("user: a", "assistant: b"), [{"type": "function", "function": WEATHER_TOOL}], "s", {"n": 1}),
        Preference(said("user: a"), said("assistant: b"), said("assistant: c"), "s", {"n": 1}),
    ],
)
def test_own_rows_come_back(record: Record) -> None:
    row = json.loads(json.dumps(record.to_row()))
    assert adapted(row, row["kind"]) == ("danlu", [record])
    assert kinds(row) == [row["kind"]]


def test_an_unknown_schema_shows_the_fields_and_the_nearest_adapters() -> None:
    with pytest.raises(BadRow) as caught:
        choose({"instructions": "a", "outputs": "b", "n": 3}, "conversation")
    assert caught.value.reason == "unknown schema"
    assert "instructions (str), outputs (str), n (int)" in caught.value.detail
    assert "nearest: alpaca" in caught.value.detail or "alpaca takes instruction" in caught.value.detail


def test_the_wrong_kind_is_named() -> None:
    with pytest.raises(BadRow, match="holds a preference, no conversation"):
        choose({"prompt": "a", "chosen": "b", "rejected": "c"}, "conversation")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "narrator", "content": "a"}]}, "unknown role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "content that is not text",
        ),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "content that is not text"),
        ({"conversations": [{"from": "human", "value": "a"}, {"value": "b"}]}, "message without a role"),
        ({"conversations": [{"from": "function_call", "value": "weather(杭州)"}]}, "tool call that is not JSON"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": "{oops"}, "tools that is not JSON"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "history that is no list of question and answer"),
    ],
)
def test_rows_that_are_wrong_in_ways_that_users_know(row: Row, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        adapted(row, "conversation")
    assert caught.value.reason == reason


def test_names_in_the_settings_are_the_tables() -> None:
    assert set(get_args(AdapterName)) == {"auto", *(adapter.name for adapter in ADAPTERS)}


REAL: list[tuple[str, Kind, int, set[str]]] = [
    ("sft/llamafactory_demo/alpaca_en_demo.json", "conversation", 999, {"alpaca"}),
    ("sft/llamafactory_demo/alpaca_zh_demo.json", "conversation", 1000, {"alpaca"}),
    ("sft/llamafactory_demo/identity.json", "conversation", 91, {"alpaca"}),
    ("sft/llamafactory_demo/glaive_toolcall_en_demo.json", "conversation", 300, {"sharegpt"}),
    ("sft/llamafactory_demo/glaive_toolcall_zh_demo.json", "conversation", 298, {"sharegpt"}),
    ("sft/llamafactory_demo/reason_tool_use_demo_50.jsonl", "conversation", 50, {"openai"}),
    ("sft/firefly_demo/dummy_data.jsonl", "conversation", 33, {"firefly"}),
    ("sft/moss_plugins.jsonl.zst", "conversation", 477, {"openai"}),
    ("sft/emollm_zh.jsonl.zst", "conversation", 1536, {"openai"}),
    ("sft/oasst_100_trees_en.jsonl.zst", "conversation", 538, {"openai"}),
    ("mini_qwen/sft", "conversation", 200, {"sharegpt"}),
    ("mini_qwen/dpo", "preference", 200, {"message_pairs"}),
    ("mini_qwen/pt", "document", 200, {"text"}),
    ("preference/llamafactory_demo/dpo_en_demo.json", "preference", 300, {"ranked_turns"}),
    ("preference/llamafactory_demo/kto_en_demo.json", "preference", 300, {"labelled"}),
    ("preference/llamafactory_demo/dpo_zh_demo.json", "preference", 300, {"ranked_turns"}),
    ("preference/llamafactory_demo/kto_en_demo.json", "conversation", 150, {"openai"}),
    ("preference/firefly_demo/dummy_dpo.jsonl", "preference", 16, {"message_pairs"}),
    ("preference/dpo_zh_500.jsonl.zst", "preference", 471, {"prompt_pairs"}),
    ("preference/hh_rlhf_harmless_en.jsonl.zst", "preference", 2162, {"prompt_pairs"}),
    ("pretrain/demo/c4_demo.jsonl", "document", 300, {"text"}),
    ("pretrain/demo/wiki_demo.txt", "document", 1, {"text"}),
]


@pytest.mark.parametrize(("path", "kind", "records", "adapters"), REAL)
def test_real_rows(shared_data: Path, path: str, kind: Kind, records: int, adapters: set[str]) -> None:
    rows = [row.fields for row in read_rows(shared_data / path)]
    assert {choose(row, kind).name for row in rows} == adapters
    counts = Counts()
    found = list(read_records(SourceSettings(path=str(shared_data / path)), kind, counts))
    assert len(found) == counts["records"] == records
    explained = sum(counts[reason] for reason in counts if reason.startswith(("bad: ", "left out: ")))
    assert counts["rows"] == len(rows) == records + explained
    if kind == "conversation" and not explained and "moss" not in path:  # MOSS's calls lose their comments
        used = choose(rows[0], kind).uses.split()
        said_before = [{name: row[name] for name in used if name in row and name != "tools"} for row in rows]
        assert han(said_before) == han([record.to_row()["messages"] for record in found])


def han(value: Any) -> int:
    """How many Han characters stand anywhere in some values: none may be lost on the way."""
    if isinstance(value, dict):
        return sum(han(key) + han(inner) for key, inner in value.items())
    if isinstance(value, list):
        return sum(map(han, value))
    return len(re.findall("[一-鿿]", value)) if isinstance(value, str) else 0


def test_real_tool_rows_hold_their_calls(shared_data: Path) -> None:
    path = shared_data / "sft/llamafactory_demo/glaive_toolcall_en_demo.json"
    rows = json.loads(path.read_text("utf-8"))
    wanted = Counter(turn["from"] for row in rows for turn in row["conversations"])
    records = read_records(SourceSettings(path=str(path)), "conversation", Counts())
    messages = [message for record in records if isinstance(record, Conversation) for message in record.messages]
    calls = [call["function"] for message in messages for call in message.get("tool_calls", [])]
    assert len(calls) == wanted["function_call"]
    assert sum(message["role"] == "tool" for message in messages) == wanted["observation"]
    assert all(isinstance(call["arguments"], dict) for call in calls)
