"""A record without some parts of its text."""

from __future__ import annotations

from dataclasses import replace

from danlu.text.records import Conversation, Document, Message, Record

Span = tuple[int, int]


def without(record: Record, spans: list[Span], mark: str = "") -> Record:
    """The record without parts [start, stop) of its `text_of`, which rise and do not overlap.

    `mark` stands where a part was taken out between two others.
    """
    if isinstance(record, Document):
        return replace(record, text=_cut(record.text, 0, spans, mark))
    at = 0

    def left(messages: list[Message]) -> list[Message]:
        nonlocal at
        kept: list[Message] = []
        for message in messages:
            content = _cut(message["content"], at, spans, mark)
            at += len(message["content"]) + 1  # the line end between two
            kept.append({**message, "content": content})
        return kept

    messages = left(record.messages)
    if isinstance(record, Conversation):
        return replace(record, messages=messages)
    return replace(record, messages=messages, chosen=left(record.chosen), rejected=left(record.rejected))


def _cut(text: str, offset: int, spans: list[Span], mark: str) -> str:
    """The text, which begins at `offset`, without the spans."""
    kept, at = [], 0
    for start, stop in spans:
        start, stop = max(start - offset, at), min(stop - offset, len(text))
        if start < stop:
            kept.append(text[at:start])
            at = stop
    return mark.join(part for part in [*kept, text[at:]] if part)
