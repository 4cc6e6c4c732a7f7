"""The step: finds personal data in a record and puts something else in its place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from danlu.text.ops.contents import messages_of, with_messages, with_text
from danlu.text.ops.operator import Column
from danlu.text.ops.privacy import addresses, cards, names, network, phones
from danlu.text.ops.privacy.pseudonyms import pseudonym
from danlu.text.ops.privacy.spans import Span, has_wide_digits, narrow, shape, without_overlaps
from danlu.text.records import Document, Message, Record
from danlu.text.steps.privacy import Datum, PrivacyStep

_PASSES = 20  # a number found may have hidden the one beside it, and what is removed lets its neighbours meet


def redact(record: Record, step: PrivacyStep) -> Record:
    """The record with personal data replaced in all its texts, tool calls too; the counts in `meta.privacy`."""
    counts: Counter[str] = Counter()
    changed = record
    for _ in range(_PASSES):
        before = counts.total()
        changed = _once(changed, step, counts)
        if counts.total() == before:
            break
    return replace(changed, meta={**record.meta, "privacy": dict(counts)}) if counts else record


def measure(records: list[Record], step: PrivacyStep) -> dict[str, Column]:
    """For each kind of data, how many were replaced."""
    found = [record.meta.get("privacy", {}) for record in records]
    return {datum: [counts.get(datum, 0) for counts in found] for datum in step.find}


def find(text: str, wanted: Collection[Datum], people: re.Pattern[str] | None = None) -> list[Span]:
    """The personal data in a text, in order, without overlaps. Names are those that `people` finds."""
    return without_overlaps(span for span in _found(text, wanted, people) if span.datum in wanted)


def _found(text: str, wanted: Collection[Datum], people: re.Pattern[str] | None) -> Iterator[Span]:
    """What stands first wins over what overlaps it: the surer form first."""
    plain = narrow(text) if has_wide_digits(text) else text
    if "@" in plain:
        yield from network.emails(plain)
    digits = shape(plain)
    if phones.ANY_NUMBER.search(digits):
        narrowed = narrow(plain)
        yield from cards.id_cards(narrowed)
        if cards.ANY_BANK_CARD.search(shape(narrowed)):
            yield from cards.bank_cards(narrowed)
        yield from phones.phones(narrowed)
    elif phones.ANY_ABROAD.search(digits):
        yield from phones.phones_abroad(plain)
    if network.ANY_IPV4.search(digits):
        yield from network.addresses_v4(plain)
    yield from network.addresses_v6(plain)
    if "address" in wanted:
        yield from addresses.addresses(plain)
    if people:
        yield from names.name_spans(text, people)


def _once(record: Record, step: PrivacyStep, counts: Counter[str]) -> Record:
    people = names.names_pattern(names.names(_texts(record))) if "name" in step.find else None

    def change(text: str) -> str:
        spans = find(text, step.find, people)
        if not spans:
            return text
        counts.update(span.datum for span in spans)
        pieces, at = [], 0
        for span in spans:
            pieces += [text[at : span.start], _substitute(span, text[span.start : span.end], step)]
            at = span.end
        return "".join([*pieces, text[at:]])

    changed = with_text(record, change)
    return changed if isinstance(changed, Document) else with_messages(changed, lambda message: _calls(message, change))


def _substitute(span: Span, shown: str, step: PrivacyStep) -> str:
    if step.action == "remove":
        return ""
    return f"[{span.datum.upper()}]" if step.action == "mask" else pseudonym(span.datum, span.key, shown, step.seed)


def _texts(record: Record) -> list[str]:
    if isinstance(record, Document):
        return [record.text]
    return [
        text
        for message in messages_of(record)
        for text in (message["content"], message.get("reasoning_content", ""))
        if text
    ]


def _calls(message: Message, change: Callable[[str], str]) -> Message:
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": _within(message["tool_calls"], change)}


def _within(value: Any, change: Callable[[str], str]) -> Any:
    """The values in a structure changed, numbers that are phones too; its keys stay."""
    if isinstance(value, dict):
        return {key: _within(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_within(inner, change) for inner in value]
    if isinstance(value, int) and abs(value) >= 10**10:
        changed = change(str(value))
        return int(changed) if changed.isdecimal() else value if changed == str(value) else changed
    return change(value) if isinstance(value, str) else value
