"""The text of a record, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

from danlu.text.records import Conversation, Document, Message, Preference, Record


def text_of(record: Record) -> str:
    """All that is said in a record, a message a paragraph."""
    return (
        record.text
        if isinstance(record, Document)
        else "\n".join(message["content"] for message in messages_of(record))
    )


def characters_of(record: Record) -> int:
    """How many characters a document has, or all messages together."""
    if isinstance(record, Document):
        return len(record.text)
    return sum(len(message["content"]) for message in messages_of(record))


def messages_of(record: Record) -> Iterator[Message]:
    """All messages of a conversation, or of a preference with both its answers; none of a document."""
    if isinstance(record, Document):
        return iter(())
    if isinstance(record, Conversation):
        return iter(record.messages)
    return chain(record.messages, record.chosen, record.rejected)


def with_text(record: Record, change: Callable[[str], str]) -> Record:
    """The record with `change` made to every text in it; tool calls stay as they are."""
    if isinstance(record, Document):
        return replace(record, text=change(record.text))
    return with_messages(record, lambda message: _message(message, change))


def with_messages(record: Conversation | Preference, change: Callable[[Message], Message]) -> Conversation | Preference:
    """The record with `change` made to every message."""
    messages = list(map(change, record.messages))
    if isinstance(record, Conversation):
        return replace(record, messages=messages)
    chosen, rejected = list(map(change, record.chosen)), list(map(change, record.rejected))
    return replace(record, messages=messages, chosen=chosen, rejected=rejected)


def _message(message: Message, change: Callable[[str], str]) -> Message:
    changed: Message = {**message, "content": change(message["content"])}
    if "reasoning_content" in message:
        changed["reasoning_content"] = change(message["reasoning_content"])
    return changed
