"""Turns of a conversation that say what an earlier turn said."""

from __future__ import annotations

from dataclasses import replace
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
    """The numbers of the exchanges in which a turn says what an earlier one of its role says.

    The question that a preference's answers answer is none of them.
    """
    if isinstance(record, Document):
        return set()
    parts = exchanges(record.messages)
    seen: dict[str, list[frozenset[str]]] = {"user": [], "assistant": []}
    again = set()
    for number, part in enumerate(parts if isinstance(record, Conversation) else parts[:-1]):
        said = [(message["role"], _ngrams(message["content"], step)) for message in part if message["role"] in seen]
        if any(_alike(grams, earlier, step.similarity) for role, grams in said for earlier in seen[role]):
            again.add(number)
            continue
        for role, grams in said:
            seen[role].append(grams)
    return again


def _ngrams(text: str, step: TurnsStep) -> frozenset[str]:
    """Those of the text in lower case without blanks; none where it is too short to count."""
    plain = "".join(text.lower().split())
    if len(plain) < step.shortest:
        return frozenset()
    return frozenset(plain[at : at + step.ngram] for at in range(max(1, len(plain) - step.ngram + 1)))


def _alike(left: frozenset[str], right: frozenset[str], similarity: float) -> bool:
    smaller, larger = sorted((len(left), len(right)))
    if smaller < similarity * larger or not smaller:
        return False
    both = len(left & right)
    return both >= similarity * (smaller + larger - both)
