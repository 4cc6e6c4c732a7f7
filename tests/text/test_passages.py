"""Steps that take passages out: notices at the head of code, sentences said again, endless words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.text.ops.table import OPERATORS
from danlu.text.records import Conversation, Document
from danlu.text.steps.passages import CopyrightStep, LongWordsStep, RepeatedSentencesStep


def changed(text: str, step: Any) -> str:
    record = OPERATORS[step.op].change(Document(text), step)  # type: ignore[misc]
    assert isinstance(record, Document)
    return record.text


NOTICES = [
    "/* Copyright (c) 2020 The Authors.\n * All rights reserved.\n */\n",
    "// Copyright 2019 Somebody\n// Licensed under the Apache License, Version 2.0\n\n",
    "# SPDX-License-Identifier: MIT\n",
    "-- (c) 2001 a company\n--\n-- Permission is hereby\n-- granted, free of charge\n",
    "<!-- © 2022 某公司 版权所有 -->\n",
    "#\n# 本文件依木兰许可证发布\n#\n",
    "; copyright © 1999\n",
    "% Copyright 2003 and later\n",
]
CODE = ["int main() { return 0; }\n", "import os  # copyright 2020\n", "def f():\n    return 1\n"]


@pytest.mark.parametrize("notice", NOTICES)
@pytest.mark.parametrize("code", CODE)
def test_notices_at_the_head_go(notice: str, code: str) -> None:
    assert changed(notice + code, CopyrightStep()) == code
    assert changed("#!/bin/sh\n" + notice + code, CopyrightStep()) == "#!/bin/sh\n" + code
    about = "/* Sorts numbers by merging. */\n"
    assert changed(about + notice + code, CopyrightStep()) == about + code
    assert changed(notice + "\n\n" + NOTICES[0] + code, CopyrightStep()) == code
    assert changed(code + notice, CopyrightStep()) == code + notice, "below the first line of code nothing goes"


@pytest.mark.parametrize(
    "text",
    [
        "# Copyright law in China\n\nIt protects authors.\n",
        "# 版权\n\n版权是作者的权利。",
        "// Reads the settings.\nint x;\n",
        "版权所有 © 2020 某公司\n正文在这里。",
        "/* an open comment with copyright 2020\nint x;\n",
        "",
        "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\nimport os\n",
        "#include <stdio.h>\n",
    ],
)
def test_what_is_no_notice_stays(text: str) -> None:
    assert changed(text, CopyrightStep()) == text


def test_conversations_have_no_head() -> None:
    record = Conversation([{"role": "user", "content": NOTICES[0]}])
    assert OPERATORS["copyright"].change(record, CopyrightStep()) is record  # type: ignore[misc]


SENTENCES = [
    "今天的天气真不错，我们出去走走吧。",
    "短句。",
    "This sentence is long enough to count! ",
    "Yes. ",
    "\n",
    "\n\n",
]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sampled_from(SENTENCES), max_size=12))
def test_a_sentence_is_said_once(parts: list[str]) -> None:
    step = RepeatedSentencesStep()
    found = changed("".join(parts), step)
    seen: set[str] = set()
    wanted = []
    for part in parts:
        counts = sum(len(c.encode()) for c in part if c.isalnum()) >= 30
        if not (counts and part in seen):
            wanted.append(part)
        seen.add(part)
    assert re.sub(r"\s", "", found) == re.sub(r"\s", "", "".join(wanted))
    assert changed(found, step) == found


def test_code_and_other_messages_may_say_it_again() -> None:
    line = "print('this line is long enough to count as one')\n"
    code = f"```python\n{line}{line}```\n    {line}"
    assert changed(code, RepeatedSentencesStep()) == code
    said = "这句话足够长，可以在每一轮里再说一遍。"
    record = Conversation([{"role": "user", "content": said}, {"role": "assistant", "content": f"{said}{said}好的。"}])
    found = OPERATORS["repeated_sentences"].change(record, RepeatedSentencesStep())  # type: ignore[misc]
    assert isinstance(found, Conversation)
    assert [message["content"] for message in found.messages] == [said, f"{said}好的。"]


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.sampled_from(["a" * 9, "b1" * 8, "-" * 30, "好" * 40, "กขค" * 20, "，", " ", "\n", "x", "`"]), max_size=9
    )
)
def test_words_longer_than_the_longest_go(parts: list[str]) -> None:
    text = "".join(parts)
    if "`" in text:
        return
    found = changed(text, LongWordsStep(longest=12))
    blanks = r"\s\u0e00-\u109f\u1780-\u17ff\u2e80-\U0010ffff"
    words = [word for word in re.split(rf"[{blanks}]+", text) if word]
    stay = [word for word in words if len(word) <= 12 or not any(map(str.isalnum, word))]
    assert [word for word in re.split(rf"[{blanks}]+", found) if word] == stay
    assert re.findall("[好，ก]", found) == re.findall("[好，ก]", text)


def test_code_keeps_its_long_words() -> None:
    word = "QUJD" * 80
    text = f"见 {word} 和 `{word}`：\n```\n{word}\n```\n{word}，完。"
    assert changed(text, LongWordsStep()) == f"见 和 `{word}`：\n```\n{word}\n```\n，完。"
