"""Whether messages make a conversation that can be trained on; small faults are mended, and all are counted."""

from __future__ import annotations

import re
from dataclasses import replace

from danlu.text.problems import BadRow
from danlu.text.records import Conversation, Document, Message, Preference, Record

# Blanks, controls and what Unicode says nothing shows of (Default_Ignorable_Code_Point): among visible characters they
# can matter, as joiners do in emoji and in Persian; alone they are no text.
_SEEN = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def is_empty(text: str) -> bool:
    """Whether nothing of the text can be seen."""
    return _SEEN.search(text) is None


def checked(record: Record) -> tuple[Record, list[str]]:
    """The record, mended where that loses nothing but what cannot be learned from, and what was mended.

    Raises BadRow where it cannot be used.
    """
    if isinstance(record, Document):
        if is_empty(record.text):
            raise BadRow("empty text")
        return record, []
    if isinstance(record, Conversation):
        messages, mended = _history(record.messages)
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
            mended.append("mended: turn without an answer cut off the end")
        if not any(message["role"] == "assistant" for message in messages):
            raise BadRow("conversation without an answer")
        return replace(record, messages=messages), mended
    return _preference(record)


def _preference(record: Preference) -> tuple[Preference, list[str]]:
    messages, mended = _history(record.messages)
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise BadRow("preference without a question before its answers")
    for answer in filter(None, (record.chosen, record.rejected)):
        _history([*messages, *answer])
        if answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
            raise BadRow("answer that is no assistant's", ", ".join(message["role"] for message in answer))
    if record.chosen == record.rejected:
        raise BadRow("chosen equals rejected")
    return replace(record, messages=messages), mended


def _history(given: list[Message]) -> tuple[list[Message], list[str]]:
    messages: list[Message] = []
    mended: list[str] = []
    for message in given:
        before = messages[-1] if messages else None
        role = message["role"]
        if role == "system":
            if is_empty(message["content"]):
                mended.append("mended: empty system prompt left out")
                continue
            if before is not None:
                same = any(earlier["role"] == "system" for earlier in messages)
                raise BadRow("two system messages" if same else "system message after the start")
        elif role == "tool":
            if before is None or not (before["role"] == "tool" or before.get("tool_calls")):
                raise BadRow("tool result without a call")
        elif is_empty(message["content"]) and not message.get("tool_calls"):
            raise BadRow("empty content", f"a {role} message")
        elif role == "assistant" and (before is None or before["role"] == "system"):
            mended.append("mended: answer without a question cut off the start")
            continue
        if before is not None and before["role"] == role != "tool":
            messages[-1] = _joined(before, message)
            mended.append(f"mended: two {role} messages in a row joined")
        else:
            messages.append(message)
    return messages, mended


def _joined(first: Message, second: Message) -> Message:
    """Questions in a row are one; an answer takes up the calls made with it. Two answers are no conversation."""
    calls = [*first.get("tool_calls", []), *second.get("tool_calls", [])]
    if first["role"] == "assistant" and not second.get("tool_calls"):
        raise BadRow("two answers in a row")
    joined: Message = {**second, **first, "content": "\n".join(filter(None, (first["content"], second["content"])))}
    return {**joined, "tool_calls": calls} if calls else joined
