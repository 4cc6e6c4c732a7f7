"""Passages of texts for people to look at: bounded, personal data covered, changes as pieces that went and came."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile

from danlu.text.ops.contents import messages_of
from danlu.text.ops.privacy import names
from danlu.text.ops.privacy.redact import find
from danlu.text.ops.smooth import Edit, difference
from danlu.text.records import Document, Record
from danlu.text.settings import CleanSettings
from danlu.text.steps.privacy import PrivacyStep

SHOWN = 280  # characters of an example
CONTEXT = 36  # characters around a change
COMPARED = 3000  # characters of each side of a change
COVER = "•"
_ROUNDS = 5  # what is covered may have hidden what stands beside it

Cover = Callable[[str], str]


def said(record: Record) -> str:
    """All that is said in a record, with who says it."""
    if isinstance(record, Document):
        return record.text
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages_of(record))


def beginning(text: str, length: int = SHOWN) -> str:
    """The beginning of a text, without blank lines."""
    text = re.sub(r"\n\s*\n", "\n", text[: 4 * length].strip())
    return text if len(text) <= length else f"{text[:length].rstrip()} …"


def cover_of(settings: CleanSettings) -> Cover:
    """What covers personal data in all that is shown, where the corpus is searched for it."""
    steps = [step for step in settings.steps if isinstance(step, PrivacyStep)]
    return (lambda text: covered(text, steps)[0]) if steps else (lambda text: text)


def covered(text: str, steps: list[PrivacyStep]) -> tuple[str, list[tuple[str, int, int]]]:
    """The text with personal data covered but for its first character, and of each (kind, start, end)."""
    places: list[tuple[str, int, int]] = []
    wanted = {datum for step in steps for datum in step.find}
    for _ in range(_ROUNDS):
        people = names.names_pattern(names.names([text])) if "name" in wanted else None
        spans = find(text, wanted, people)
        if not spans:
            break
        for span in spans:
            places.append((span.datum, span.start, span.end))
            hidden = "".join(COVER if letter.isalnum() else letter for letter in text[span.start + 1 : span.end])
            text = text[: span.start + 1] + hidden + text[span.end :]
    return text, places


def changes(before: str, after: str) -> list[Edit]:
    """What became of a text, with some characters around each change; long changes are cut."""
    start = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))))
    left, right = before[start:], after[start:]
    end = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(left[::-1], right[::-1], strict=False))))
    tail = left[len(left) - end :]
    left, right = left[: len(left) - end], right[: len(right) - end]
    edits = difference(left[:COMPARED], right[:COMPARED])
    edits = [Edit("=", before[:start]), *edits, Edit("=", tail)]
    edits = [edit for edit in edits if edit.text]
    return [_short(edit, place == 0, place == len(edits) - 1) for place, edit in enumerate(edits)][:40]


def visible(text: str) -> str:
    """The text with signs for blanks and for what shows nothing."""
    if text.isspace():
        text = text.replace(" ", "␣").replace("\u3000", "□")
    text = text.replace("\t", "⇥").replace("\n", "↵\n")
    return "".join(letter if letter.isprintable() or letter == "\n" else f"‹{ord(letter):04X}›" for letter in text)


def _short(edit: Edit, first: bool, last: bool) -> Edit:
    text = edit.text
    if edit.sign != "=":
        shown = text[:SHOWN] + (" …" if len(text) > SHOWN else "")
        return Edit(edit.sign, shown if shown.strip() and shown.isprintable() else visible(shown))
    if len(text) <= 2 * CONTEXT:
        return edit
    head = "" if first else text[:CONTEXT]
    return Edit("=", f"{head} … {'' if last else text[-CONTEXT:]}")
