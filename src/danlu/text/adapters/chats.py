"""Conversations that come as lists of turns: OpenAI, ShareGPT, Firefly, MOSS."""

from __future__ import annotations

import re
from typing import Any

from danlu.text.adapters.messages import listed, message, openai_message, text, tools, turn, with_calls
from danlu.text.problems import BadRow
from danlu.text.records import Conversation, Message


def openai(fields: dict[str, Any]) -> list[Conversation]:
    """{"messages": [{"role", "content", ...}], "tools"?}, also under the name `conversations` or `conversation`.

    Messages of the MOSS sample with plugins carry `inner_thoughts`, `commands` and `tool_responses` beside the answer.
    """
    entries = next(found for name in ("messages", "conversations", "conversation") if (found := listed(fields, name)))
    messages = [made for entry in entries for made in _expanded(entry)]
    return [_conversation(fields, messages)]


def sharegpt(fields: dict[str, Any]) -> list[Conversation]:
    """{"conversations": [{"from", "value"}], "tools"?, "system"?}: human, gpt, function_call, observation, ..."""
    entries = next(found for name in ("conversations", "messages") if (found := listed(fields, name)))
    return [_conversation(fields, sharegpt_turns(entries))]


def sharegpt_turns(entries: list[Any]) -> list[Message]:
    """Messages from {"from", "value"} turns."""
    if not all(isinstance(entry, dict) and "from" in entry for entry in entries):
        raise BadRow("message without a role", "a turn without `from`")
    return [turn(entry["from"], entry.get("value")) for entry in entries]


def firefly(fields: dict[str, Any]) -> list[Conversation]:
    """{"conversation": [{"human", "assistant"}], "system"?}."""
    messages = []
    for entry in listed(fields, "conversation") or []:
        if not isinstance(entry, dict) or "human" not in entry or "assistant" not in entry:
            raise BadRow("message without a role", "a turn without `human` and `assistant`")
        messages += [message("user", entry["human"]), message("assistant", entry["assistant"])]
    return [_conversation(fields, messages)]


def moss(fields: dict[str, Any]) -> list[Conversation]:
    """{"meta_instruction", "chat": {"turn_1": {"Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS"}}}."""
    turns = fields["chat"]
    order = sorted((name for name in turns if turns[name]), key=lambda name: int(name.removeprefix("turn_")))
    messages = [message("system", text(fields, "meta_instruction").strip())]
    for name in order:
        said = {key: _MOSS_MARK.sub("", value or "").strip() for key, value in turns[name].items()}
        messages.append(message("user", said.get("Human", "")))
        messages += _moss_answer(
            said.get("MOSS", ""), said.get("Inner Thoughts"), said.get("Commands"), said.get("Tool Responses")
        )
    return [Conversation(messages)]


def is_moss(fields: dict[str, Any]) -> bool:
    """Whether `chat` holds numbered turns of text."""
    turns = fields.get("chat")
    return isinstance(turns, dict) and all(
        re.fullmatch(r"turn_\d+", name) and (said is None or _is_moss_turn(said)) for name, said in turns.items()
    )


def _is_moss_turn(said: Any) -> bool:
    texts = isinstance(said, dict) and all(value is None or isinstance(value, str) for value in said.values())
    return texts and "Human" in said and "MOSS" in said


def _conversation(fields: dict[str, Any], messages: list[Message]) -> Conversation:
    system = text(fields, "system") or text(fields, "system_prompt")
    if system and not (messages and messages[0]["role"] == "system"):
        messages = [message("system", system), *messages]
    return Conversation(messages, tools(fields.get("tools")))


_MOSS_MARK = re.compile(r"^\s*<\|[A-Za-z ]+\|>:?\s?|\s*<eo[a-z]>\s*$")
_MOSS_CALL = re.compile(r"(\w+)\((.*?)\)(?=\s*(?:,\s*(?:\w+\(|None)|\d+\.\s|#|$))", re.DOTALL | re.MULTILINE)


def _expanded(entry: Any) -> list[Message]:
    if isinstance(entry, dict) and "inner_thoughts" in entry:
        answer, said = (
            text(entry, "content"),
            (entry.get(key) for key in ("inner_thoughts", "commands", "tool_responses")),
        )
        return _moss_answer(answer, *said)
    return [openai_message(entry)]


def _moss_answer(answer: str, thoughts: str | None, commands: str | None, results: str | None) -> list[Message]:
    """The answer, after its calls and their results where it made any; thoughts stand with what they led to."""
    final = message("assistant", answer)
    calls = _MOSS_CALL.findall(commands or "")
    first = with_calls(message("assistant", ""), [_moss_call(*call) for call in calls]) if calls else final
    if not _nothing(thoughts):
        first["reasoning_content"] = thoughts or ""
    return [first, message("tool", "" if _nothing(results) else results), final] if calls else [final]


def _moss_call(name: str, argument: str) -> dict[str, Any]:
    quoted = len(argument) > 1 and argument[0] == argument[-1] == '"'
    return {"name": name, "arguments": {"input": argument[1:-1] if quoted else argument}}


def _nothing(said: str | None) -> bool:
    return not said or said.strip(" .\n").lower() in ("none", "non")
