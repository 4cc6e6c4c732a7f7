"""Files of prompts: what is answered, what is counted, and going on after an end in the middle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.infer.generate import generate_file
from danlu.infer.model import Model, load
from danlu.infer.settings import SamplingSettings
from danlu.ledger.errors import UserError

ANSWER = "你好，Hello world👋！"
SAMPLING = SamplingSettings(max_tokens=20)


@pytest.fixture(scope="module")
def model(reciting_model: Path) -> Model:
    return load(reciting_model, max_batch=2)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    ask = {"messages": [{"role": "user", "content": "在吗？"}]}
    content = [ask, {"prompt": "∞"}, {"question": "?"}, {"prompt": "x" * 300}, {"text": "world"}, {"prompt": ""}, ask]
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in content] * 4
    path.write_text("\n".join([lines[0], "{broken", *lines[1:]]) + "\n", "utf-8")
    return path


def test_answers_come_in_order_and_bad_rows_are_counted(
    model: Model, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = generate_file(model, prompts, tmp_path / "a" / "out.jsonl", SAMPLING)
    out = rows(tmp_path / "a" / "out.jsonl")
    assert [row["line"] for row in out] == [1, 3, 6, 8, 9, 10, 13, 15, 16, 17, 20, 22, 23, 24, 27, 29]
    assert [(row["answer"][:12], row["finish"]) for row in out[:4]] == [
        (ANSWER[:12], "stop"), ("∞" * 12, "length"), ("👋！", "stop"), (ANSWER[:12], "stop")
    ]  # fmt: skip
    assert out[1] == {
        "line": 3, "prompt": "∞", "answer": "∞" * 20, "finish": "length", "model": "reciting", "quantize": None,
        "sampling": {"max_tokens": 20},
    }  # fmt: skip
    found = {reason: entry["count"] for reason, entry in counts.as_dict().items()}
    assert found.pop("neither messages nor prompt") == found.pop("prompt longer than the window") == 4
    assert found.pop("empty prompt") == 4 and sum(found.values()) == 1  # the broken line, in the reader's words
    said = capsys.readouterr().err
    assert "16 new answers" in said and "prompts.jsonl:4" in said


def test_messages_without_one_are_an_empty_prompt(model: Model, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"messages": []}\n{"messages": [], "prompt": "∞"}\n{"prompt": "∞"}\n', "utf-8")
    counts = generate_file(model, asked, tmp_path / "out.jsonl", SAMPLING)
    assert {reason: entry["count"] for reason, entry in counts.as_dict().items()} == {"empty prompt": 2}
    assert [row["line"] for row in rows(tmp_path / "out.jsonl")] == [3]


def test_an_unfinished_file_is_gone_on_with(model: Model, prompts: Path, tmp_path: Path, reciting_model: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    generate_file(model, prompts, whole, SAMPLING)
    content = whole.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1, len(content)):
        cut.write_bytes(content[:size])
        generate_file(model, prompts, cut, SAMPLING)
        assert cut.read_bytes() == content
    with pytest.raises(UserError, match="other settings"):
        generate_file(model, prompts, cut, SamplingSettings(max_tokens=21))
    with pytest.raises(UserError, match="other settings"):
        generate_file(load(reciting_model, quantize="int8"), prompts, cut, SAMPLING)
    assert cut.read_bytes() == content
    for own in ("a file of mine\n", "a file of mine", '{"line": "1"}\n', "{}\n", '{"line": 1\n'):
        cut.write_text(own)
        with pytest.raises(UserError, match="not a file of answers"):
            generate_file(model, prompts, cut, SAMPLING)
        assert cut.read_text() == own


def test_lines_of_a_text_file(model: Model, tmp_path: Path) -> None:
    prompts, out = tmp_path / "p.txt", tmp_path / "out.jsonl"
    prompts.write_text("你\n\nHello\n", "utf-8")
    generate_file(model, prompts, out, SamplingSettings(max_tokens=2))
    assert [(row["line"], row["prompt"], row["answer"]) for row in rows(out)] == [
        (1, "你", "好，"),
        (3, "Hello", " world"),
    ]
