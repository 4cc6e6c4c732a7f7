"""Turns of a conversation that say what an earlier turn said."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from danlu.text.ops.operator import Column
from danlu.text.records import Conversation, Document, Message, Record
from danlu.text.steps.dialogue import TurnsStep


def change(record: Record, step: TurnsStep) -> Record:
    """The record without exchanges that repeat an earlier one; their number in `meta.repeated`."""
    if isinstance(record, Document) or step.action == "drop":
        return record
    parts = exchanges(record.messages)
    again = repeated(record, step)
    if not again:
        return record
    messages = [message for number, part in enumerate(parts) if number not in again for message in part]
    return replace(record, messages=messages, meta={**record.meta, "repeated": len(again)})


def measure(records: list[Record], step: TurnsStep) -> dict[str, Column]:
    """`repeated`: exchanges that repeat an earlier one, those that went already among them."""
    return {"repeated": [record.meta.get("repeated", 0) + len(repeated(record, step)) for record in records]}


def judge(values: dict[str, Any], step: TurnsStep) -> tuple[str, Any] | None:
    """A conversation with repeated exchanges, and their number."""
    return ("repeated turns", values["repeated"]) if step.action == "drop" and values["repeated"] else None


def exchanges(messages: list[Message]) -> list[list[Message]]:
    """A question with all that answers it; what stands before the first question, such as the system prompt, first."""
    parts: list[list[Message]] = [[]]
    for message in messages:
        if message["role"] == "user":
            parts.append([])
        parts[-1].append(message)
    return parts


def repeated(record: Record, step: TurnsStep) -> set[int]:
    """The numbers of the exchanges whose answer is an earlier one's: it is long, or the question is that one's too.

    The question that a preference's answers answer is none of them.
    """
    if isinstance(record, Document):
        return set()
    parts = exchanges(record.messages)
    said = [
        (_Said(part, "user", step.ngram), _Said(part, "assistant", step.ngram))
        for part in (parts if isinstance(record, Conversation) else parts[:-1])
    ]
    again: set[int] = set()
    for number, (question, answer) in enumerate(said):
        for earlier, (asked, answered) in enumerate(said[:number]):
            if earlier in again or not answer.like(answered, step.similarity):
                continue
            same = question.size + answer.size if question.like(asked, step.similarity) else answer.size
            if same >= step.shortest:
                again.add(number)
                break
    return again


class _Said:
    """What a role says in an exchange, in lower case without blanks."""

    def __init__(self, part: list[Message], role: str, n: int) -> None:
        self._text = "".join("".join(message["content"].lower().split()) for message in part if message["role"] == role)
        self._n = n

    @cached_property
    def size(self) -> int:
        return len(self._text.encode("utf-8", "surrogatepass"))

    @cached_property
    def ngrams(self) -> frozenset[str]:
        text, n = self._text, self._n
        return frozenset(text[at : at + n] for at in range(max(1, len(text) - n + 1)))

    def like(self, other: _Said, similarity: float) -> bool:
        """Whether there is something said, and the Jaccard similarity is reached."""
        if not self._text or not other._text:
            return False
        if self._text == other._text:
            return True
        smaller, larger = sorted((len(self.ngrams), len(other.ngrams)))
        both = len(self.ngrams & other.ngrams) if smaller >= similarity * larger else 0
        return both >= similarity * (smaller + larger - both)
