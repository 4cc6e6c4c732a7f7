"""Cutting: what is left is what the shorter conversation would have been, and no markup or character is split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.text.records import Conversation, Preference
from danlu.tokens.cut import ANSWER_CUT, NO_ROOM, PROMPT_CUT, TOO_LONG, TURNS_LEFT_OUT, Cut, Overlong, cut
from danlu.tokens.encode import Encoded, Kind, Role
from danlu.tokens.jinja import CHATML, LLAMA3
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

from .test_encode import kinds, said, trained
from .test_template import CALL, LLAMA2, TOOLS

SYSTEM: Any = {"role": "system", "content": "短 and plain"}
TEXT = st.lists(
    st.sampled_from(["你好，世界。", "hello world ", "👨‍👩‍👧‍👦", "𓀀𓀁", "🇨🇳", "\n", "é", "x"]), min_size=1, max_size=8
).map("".join)


def cut_one(tokenizer: Tokenizer, encoded: Encoded, length: int, overlong: Overlong = "drop", budget: int = 8) -> Cut:
    return cut([encoded], length, overlong, budget, tokenizer.token_bytes)


def same(left: Encoded, right: Encoded) -> bool:
    names = ("tokens", "weights", "piece_starts", "piece_kinds", "piece_roles")
    return left.text_bytes == right.text_bytes and all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in names
    )


@settings(deadline=None, max_examples=40)
@given(
    contents=st.lists(TEXT, min_size=2, max_size=8).filter(lambda contents: len(contents) % 2 == 0),
    system=st.booleans(),
    source=st.sampled_from([CHATML, LLAMA3, LLAMA2]),
    data=st.data(),
)
def test_what_is_left_is_the_conversation_without_its_oldest_turns(
    qwen_and_llama: Tokenizer, contents: list[str], system: bool, source: str, data: st.DataObject
) -> None:
    template = Template(qwen_and_llama.with_chat_template(source))
    first = [SYSTEM] if system else []
    shorter = [
        template.encode(Conversation([*first, *said(*contents[start:]).messages]))[0]
        for start in range(0, len(contents), 2)
    ]
    newline = source == CHATML
    length = data.draw(st.integers(1, len(shorter[0]) + 1))
    found = cut_one(qwen_and_llama, shorter[0], length)
    fitting = [one for one in shorter if len(one) - newline <= length]
    if not fitting:
        assert found == Cut([], TOO_LONG)
        return
    (left,) = found.documents
    assert found.reason == (None if fitting[0] is shorter[0] else TURNS_LEFT_OUT)
    assert same(left, fitting[0]) or left.tokens.tolist() == fitting[0].tokens[:-1].tolist()
    assert left.text_bytes == fitting[0].text_bytes


@settings(deadline=None, max_examples=40)
@given(
    contents=st.lists(TEXT, min_size=4, max_size=10).filter(lambda contents: len(contents) % 2 == 0),
    system=st.booleans(),
    source=st.sampled_from([CHATML, LLAMA3, LLAMA2]),
    data=st.data(),
)
def test_every_window_is_the_conversation_of_its_turns(
    qwen_and_llama: Tokenizer, contents: list[str], system: bool, source: str, data: st.DataObject
) -> None:
    template = Template(qwen_and_llama.with_chat_template(source))
    first = [SYSTEM] if system else []

    def of(start: int, end: int) -> Encoded:
        return template.encode(Conversation([*first, *said(*contents[start:end]).messages]))[0]

    pairs = [(start, end) for end in range(2, len(contents) + 1, 2) for start in range(0, end, 2)]
    longest_turn = max(len(of(start, start + 2)) for start in range(0, len(contents), 2))
    length = data.draw(st.integers(longest_turn, max(longest_turn, len(of(0, len(contents))))))
    found = cut([of(0, len(contents))], length, "drop", 8, qwen_and_llama.token_bytes, "windows")
    end = len(contents)
    for window in reversed(found.documents):
        start = next(
            start
            for start, stop in pairs
            if stop == end and (same(window, whole := of(start, stop)) or same(window, without_newline(whole)))
        )
        assert len(window) <= length
        assert start == 0 or len(of(start - 2, end)) - (source == CHATML) > length, "an older turn had room"
        end = start
    assert end == 0, "every turn is in one window"


def without_newline(encoded: Encoded) -> Encoded:
    """Without what follows its last stop token."""
    pieces = encoded.piece_starts[:-1] if encoded.piece_kinds[-1] == Kind.BETWEEN else encoded.piece_starts
    end = int(encoded.piece_starts[-1]) if len(pieces) < len(encoded.piece_starts) else len(encoded.tokens)
    return Encoded(
        tokens=encoded.tokens[:end],
        weights=encoded.weights[:end],
        piece_starts=pieces,
        piece_kinds=encoded.piece_kinds[: len(pieces)],
        piece_roles=encoded.piece_roles[: len(pieces)],
        piece_turns=encoded.piece_turns[: len(pieces)],
        text_bytes=encoded.text_bytes,
    )


@settings(deadline=None, max_examples=50)
@given(
    prompt=TEXT,
    answer=TEXT,
    overlong=st.sampled_from(["head", "tail"]),
    budget=st.integers(16, 24),
    data=st.data(),
)
def test_content_is_cut_between_characters_and_nothing_else_is(
    qwen: Tokenizer, prompt: str, answer: str, overlong: Overlong, budget: int, data: st.DataObject
) -> None:
    (whole,) = Template(qwen, system="none").encode(Conversation([SYSTEM, *said(prompt, answer).messages]))
    length = data.draw(st.integers(1, len(whole)))
    found = cut_one(qwen, whole, length, overlong, budget)
    if found.reason == NO_ROOM:
        markup = len(whole) - len(qwen.encode(prompt)) - len(qwen.encode(answer))
        assert length <= markup + budget
        return
    (left,) = found.documents
    assert len(left) <= length
    pieces = kinds(qwen, left)
    contents = {role: text for text, kind, role, _ in pieces if kind == "content"}
    assert contents["system"] == "短 and plain"
    asked, given_ = contents.get("user", ""), contents.get("assistant", "")
    assert (prompt.startswith if overlong == "head" else prompt.endswith)(asked)
    assert answer.startswith(given_)
    assert "�" not in asked + given_
    for text, whole_text in ((asked, prompt), (given_, answer)):
        assert len(_clusters(text)) + len(_clusters(whole_text.replace(text, "", 1))) == len(_clusters(whole_text))
    assert [text for text, kind, _, _ in pieces if kind in ("header", "stop")] == [
        text for text, kind, _, _ in kinds(qwen, whole) if kind in ("header", "stop")
    ]
    assert (found.reason == ANSWER_CUT) == (given_ != answer)
    assert trained(qwen, left) == given_ + ("<|im_end|>" if given_ == answer else "")
    assert left.text_bytes == len(given_.encode())
    kept = len(qwen.encode(answer)) if given_ == answer else int((left.weights > 0).sum())
    assert kept + 10 >= min(budget, len(qwen.encode(answer)))


def _clusters(text: str) -> list[str]:
    import regex

    return regex.findall(r"\X", text)


def test_head_and_tail_of_a_long_prompt(qwen: Tokenizer) -> None:
    (whole,) = Template(qwen, system="none").encode(said("一二三四五六七八九十" * 20, "好的。"))
    markup = 3 + 2 + 3 + 1
    head, tail = (cut_one(qwen, whole, 40, overlong, 16) for overlong in ("head", "tail"))
    for found in (head, tail):
        assert found.reason == PROMPT_CUT
        assert trained(qwen, found.documents[0]) == "好的。<|im_end|>"
        assert 40 - 3 <= len(found.documents[0]) <= 40
        assert len(found.documents[0]) > markup
    assert kinds(qwen, head.documents[0])[1][0].startswith("一二三")
    assert kinds(qwen, tail.documents[0])[1][0].endswith("八九十")


def test_a_cut_answer_teaches_no_stop(qwen: Tokenizer) -> None:
    (whole,) = Template(qwen, system="none").encode(said("short?", "一二三四五六七八九十" * 20))
    found = cut_one(qwen, whole, 30, "tail", 8)
    (left,) = found.documents
    assert found.reason == ANSWER_CUT
    assert left.tokens[-1] == 151645
    assert left.weights[-1] == 0
    assert trained(qwen, left).startswith("一二三四")
    assert int(left.weights.sum()) >= 30 - 3 - 2 - 2 - 3 - 1 - 2


def test_later_answers_of_a_long_turn_go_first(qwen: Tokenizer) -> None:
    messages: list[Any] = [
        {"role": "user", "content": "天气?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "晴 " * 50},
        {"role": "assistant", "content": "晴。"},
    ]
    (whole,) = Template(qwen).encode(Conversation(messages, TOOLS))
    found = cut_one(qwen, whole, len(whole) - 20, "head", 16)
    (left,) = found.documents
    assert trained(qwen, left).endswith("</tool_call><|im_end|>")
    assert int(left.piece_kinds[-1]) in (Kind.STOP, Kind.BETWEEN)
    assert "晴 晴" not in qwen.decode(left.tokens.tolist())


def test_a_pair_keeps_one_prompt(qwen: Tokenizer) -> None:
    history: Any = said("1" * 30, "2" * 30, "30" * 30).messages
    sides: list[list[Any]] = [[{"role": "assistant", "content": text}] for text in ("好", "45" * 12)]
    pair = Template(qwen, system="none").encode_preference(Preference(history, *sides))
    found = cut(pair, 70, "tail", 25, qwen.token_bytes)
    chosen, rejected = found.documents
    assert found.reason == PROMPT_CUT
    first = int(np.flatnonzero(chosen.weights)[0])
    assert first == int(np.flatnonzero(rejected.weights)[0])
    assert chosen.tokens[:first].tolist() == rejected.tokens[:first].tolist()
    assert max(len(chosen), len(rejected)) <= 70
    assert trained(qwen, chosen) == "好<|im_end|>"
    assert "1" not in qwen.decode(chosen.tokens.tolist())


def test_a_system_prompt_that_fills_the_window_drops_the_row(qwen: Tokenizer) -> None:
    long: Any = {"role": "system", "content": "规则。" * 100}
    (whole,) = Template(qwen).encode(Conversation([long, *said("q", "a").messages]))
    assert cut_one(qwen, whole, 60, "tail") == Cut([], NO_ROOM)


def test_what_fits_is_left_alone(qwen: Tokenizer) -> None:
    (whole,) = Template(qwen).encode(said("q", "a"))
    found = cut_one(qwen, whole, len(whole))
    assert found.documents[0] is whole
    assert found.reason is None
    (left,) = cut_one(qwen, whole, len(whole) - 1).documents
    assert left.tokens.tolist() == whole.tokens[:-1].tolist()
    assert int(left.piece_roles[-1]) == Role.ASSISTANT


@pytest.mark.parametrize("length", [1, 5, 8])
def test_windows_shorter_than_the_markup(qwen: Tokenizer, length: int) -> None:
    (whole,) = Template(qwen, system="none").encode(said("问题", "答案"))
    assert cut_one(qwen, whole, length, "head", 4) == Cut([], NO_ROOM)
