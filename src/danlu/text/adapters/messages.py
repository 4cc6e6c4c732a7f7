"""What adapters build messages from: roles, contents, tools and tool calls in the OpenAI form."""

from __future__ import annotations

import json
from typing import Any, cast

from danlu.text.json_stream import parse
from danlu.text.problems import BadRow
from danlu.text.records import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}


def turn(role: Any, content: Any) -> Message:
    """A message from a role by any common name; the role "call" is an assistant's whose content is the calls."""
    name = ROLES.get(str(role).strip().lower())
    if name is None:
        raise BadRow("unknown role", str(role))
    if name == "call":
        return with_calls({"role": "assistant", "content": ""}, content)
    return message(name, content)


def message(role: str, content: Any) -> Message:
    """A message whose content is text, nothing, or a list of typed parts (text, reasoning, tool_call)."""
    if content is None or isinstance(content, str):
        return {"role": role, "content": content or ""}
    if not isinstance(content, list):
        raise BadRow("content that is not text", f"a {type(content).__name__} in a {role} message")
    made: Message = {"role": role, "content": ""}
    for part in content:
        kind, value = _part(part)
        if kind == "text":
            made["content"] += value
        elif kind in ("reasoning", "thinking"):
            made["reasoning_content"] = made.get("reasoning_content", "") + value
        elif kind == "tool_call":
            made = with_calls(made, value)
        else:
            raise BadRow("content that is not text", f"a part of type {kind}")
    return made


def _part(part: Any) -> tuple[str, Any]:
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise BadRow("content that is not text", "a part without a type")
    kind = part["type"]
    value = next((part[key] for key in ("value", kind, "text") if part.get(key) is not None), None)
    if kind in ("text", "reasoning", "thinking") and not isinstance(value, str):
        raise BadRow("content that is not text", f"a {kind} part without text")
    return kind, value


def with_calls(made: Message, calls: Any) -> Message:
    """The message with tool calls added: one or a list, as JSON text or objects, in any common nesting."""
    parsed = structure(calls, "tool call")
    added = [_call(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
    return {**made, "tool_calls": [*made.get("tool_calls", []), *added]}


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function") or call if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("tool call without a name", str(call)[:80])
    arguments: Any = next((function[key] for key in ("arguments", "parameters") if function.get(key) is not None), {})
    # An object, not its text: chat templates turn arguments into JSON themselves.
    made = {"type": "function", "function": {"name": function["name"], "arguments": structure(arguments, "tool call")}}
    return {"id": call["id"], **made} if isinstance(call.get("id"), str) else made


def tools(value: Any) -> list[dict[str, Any]] | None:
    """Tool definitions, from JSON text or objects, with or without the outer {"type": "function"}; None for none."""
    parsed = structure(value, "tools") if value else None
    if not parsed:
        return None
    if not isinstance(parsed, list) or not all(isinstance(tool, dict) for tool in parsed):
        raise BadRow("tools that are no list of objects", str(parsed)[:80])
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in parsed]


def structure(value: Any, what: str) -> Any:
    """A list or object, also one that is written as JSON text inside a field."""
    if isinstance(value, str):
        try:
            return parse(value)
        except BadRow as problem:
            raise BadRow(f"{what} that is not JSON", problem.detail) from None
    return value


def text(fields: dict[str, Any], name: str) -> str:
    """A field's text; missing and null are empty. Raises BadRow for what is neither."""
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise BadRow("content that is not text", f"{name} is a {type(value).__name__}")
    return value


def listed(fields: dict[str, Any], name: str) -> list[Any] | None:
    """A field's list, also one written as JSON text; None where it is anything else."""
    value = fields.get(name)
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = parse(value)
        except BadRow:
            return None
    return value if isinstance(value, list) else None


def openai_message(entry: Any) -> Message:
    """A message of the OpenAI form, its optional fields kept where they hold something."""
    if not isinstance(entry, dict) or "role" not in entry:
        raise BadRow("message without a role", str(entry)[:80])
    made = cast(dict[str, Any], turn(entry["role"], entry.get("content")))
    if entry.get("tool_calls"):
        made = cast(dict[str, Any], with_calls(cast(Message, made), entry["tool_calls"]))
    elif entry.get("function_call"):
        made = cast(dict[str, Any], with_calls(cast(Message, made), entry["function_call"]))
    reasoning = entry.get("reasoning_content") or entry.get("reasoning")
    kept = {"reasoning_content": reasoning, "name": entry.get("name"), "tool_call_id": entry.get("tool_call_id")}
    made.update({key: value for key, value in kept.items() if isinstance(value, str) and value})
    if isinstance(entry.get("weight"), int | float):
        made["weight"] = float(entry["weight"])
    return cast(Message, made)
