"""Conversations that come as an instruction and its answer in columns."""

from __future__ import annotations

import re
from typing import Any

from danlu.text.adapters.messages import listed, message, text
from danlu.text.problems import BadRow
from danlu.text.records import Conversation, Message

QUESTIONS = (("question", "answer"), ("prompt", "completion"), ("prompt", "response"), ("query", "response"))


def alpaca(fields: dict[str, Any]) -> list[Conversation]:
    """{"instruction", "input"?, "output", "history"?: [[question, answer], ...], "system"?}."""
    return [Conversation([*alpaca_prompt(fields), message("assistant", text(fields, "output"))])]


def alpaca_prompt(fields: dict[str, Any]) -> list[Message]:
    """System prompt, history and the instruction with its input on lines of their own."""
    messages = [message("system", text(fields, "system"))] if fields.get("system") else []
    for pair in listed(fields, "history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow("history that is no list of question and answer", str(pair)[:80])
        messages += [message("user", pair[0]), message("assistant", pair[1])]
    return [*messages, message("user", _joined(text(fields, "instruction"), text(fields, "input")))]


def belle_turns(fields: dict[str, Any]) -> list[Conversation]:
    """BELLE's multi-turn form: "Human:...\\nAssistant:...\\nHuman:...\\nAssistant:" in `instruction`, and `output`."""
    _, *parts = _BELLE_TURN.split(text(fields, "instruction"))
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [message(roles[name], said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)]
    if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
        messages.pop()
    return [Conversation([*messages, message("assistant", text(fields, "output"))])]


def is_belle(fields: dict[str, Any]) -> bool:
    """Whether an instruction is a written-out dialogue."""
    said = fields.get("instruction")
    return isinstance(said, str) and said.startswith("Human:") and "\nAssistant:" in said and "output" in fields


def dolly(fields: dict[str, Any]) -> list[Conversation]:
    """{"instruction", "context", "response"}."""
    question = _joined(text(fields, "instruction"), text(fields, "context"))
    return [Conversation([message("user", question), message("assistant", text(fields, "response"))])]


def firefly_tasks(fields: dict[str, Any]) -> list[Conversation]:
    """Firefly's first form: {"kind": a task's name, "input", "target"}."""
    return [Conversation([message("user", text(fields, "input")), message("assistant", text(fields, "target"))])]


def questions(fields: dict[str, Any]) -> list[Conversation]:
    """A question and its answer: question/answer, prompt/completion, prompt/response or query/response."""
    question, answer = next(pair for pair in QUESTIONS if all(isinstance(fields.get(name), str) for name in pair))
    system = [message("system", text(fields, "system"))] if fields.get("system") else []
    return [Conversation([*system, message("user", fields[question]), message("assistant", fields[answer])])]


_BELLE_TURN = re.compile(r"(?:^|\n)(Human|Assistant):")


def _joined(instruction: str, context: str) -> str:
    return f"{instruction}\n{context}" if instruction and context else instruction or context
