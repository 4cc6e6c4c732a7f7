"""The lines or sentences of records that are compared with those of others: none of code, none too short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from danlu.text.kernels import Class, Codes, Spans, codes_of
from danlu.text.ops.contents import messages_of
from danlu.text.records import Document, Record
from danlu.text.steps.duplicates import LineDedupStep

_TICK, _TILDE = ord("`"), ord("~")
_INDENT = 4  # blanks, as in Markdown


@dataclass(frozen=True, slots=True)
class Units:
    """Lines or sentences: their hashes, and where they stand with all that goes when they go."""

    hashes: np.ndarray
    spans: Spans
    alone: np.ndarray
    """Of those whose message has nothing else, where the message begins, counted from 1; else 0. int32."""


def units(records: list[Record], step: LineDedupStep) -> Units:
    """What counts of the records: outside code, with at least `shortest` bytes of letters and digits, and in a message
    of `roles` that has more than this one."""
    codes = codes_of(records)
    lines = codes.lines
    found = lines if step.unit == "line" else codes.sentences
    if not len(found.start):
        return Units(np.zeros(0, np.uint64), found, np.zeros(0, np.int32))
    line = np.searchsorted(lines.start, found.start, "right") - 1
    letters = letters_before(codes)
    counts = (letters[found.end] - letters[found.start] >= step.shortest) & ~_is_code(codes, lines)[line]
    messages = None if all(isinstance(record, Document) for record in records) else _Messages(records, codes, step)
    if messages:
        counts &= messages.may_go(found)
    if step.unit == "line":
        begins, ends = _whole_lines(codes, found.start)
        ends = np.minimum(ends, np.repeat(codes.bounds[1:] - 1, found.counts))  # the last line of a text has no end
    else:
        begins, ends = found.start, lines.end[line]
        follows = line[1:] == line[:-1]
        ends[:-1][follows] = found.start[1:][follows]
    at = np.flatnonzero(counts)
    spans = Spans(begins[at], ends[at], np.searchsorted(at, found.bounds))
    alone = messages.alone(codes, spans) if messages else np.zeros(len(at), np.int32)
    return Units(codes.hashes(found)[at], spans, alone)


class _Messages:
    """Where the messages of records begin, and which are looked at; a document is one that always is."""

    def __init__(self, records: list[Record], codes: Codes, step: LineDedupStep) -> None:
        starts: list[int] = []
        roles: list[bool | None] = []
        for record, at in zip(records, codes.bounds.tolist(), strict=False):
            starts.append(at)
            roles.append(None)
            for message in messages_of(record):
                starts.append(at)
                roles.append(message["role"] in step.roles)
                at += len(message["content"]) + 1
        self._starts = np.array([*starts, codes.bounds[-1]])
        self._documents = np.array([role is None for role in roles])
        self._looked_at = np.array([bool(role) for role in roles])

    def _owners(self, found: Spans) -> np.ndarray:
        return np.searchsorted(self._starts, found.start, "right") - 1

    def may_go(self, found: Spans) -> np.ndarray:
        """Which lines or sentences stand in documents, or in messages that are looked at and have several."""
        owner = self._owners(found)
        several = np.bincount(owner, minlength=len(self._documents))[owner] > 1
        return self._documents[owner] | (several & self._looked_at[owner])

    def alone(self, codes: Codes, counted: Spans) -> np.ndarray:
        """`Units.alone` of those that count."""
        said = np.concatenate([np.zeros(1, np.int64), np.cumsum(codes.classes > Class.BLANK)])
        owner = self._owners(counted)
        taken = np.bincount(owner, said[counted.end] - said[counted.start], len(self._documents))
        whole = (taken == np.diff(said[self._starts])) & ~self._documents
        first = np.repeat(codes.bounds[:-1], counted.counts)
        return np.where(whole[owner], self._starts[owner] - first + 1, 0).astype(np.int32)


def letters_before(codes: Codes) -> np.ndarray:
    """How many bytes of UTF-8 the letters and digits before each place have, and before the end."""
    points, classes = codes.points, codes.classes
    sizes = (points >= 0x80).astype(np.int8) + (points >= 0x800) + (points >= 0x10000) + 1
    sizes[(classes < Class.LETTER) | (classes > Class.FUNCTION)] = 0
    before = np.zeros(len(points) + 1, np.int64)
    np.cumsum(sizes, out=before[1:])
    return before


def _whole_lines(codes: Codes, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the line of each place begins, and where the next one does."""
    ends = np.flatnonzero(codes.classes == Class.NEWLINE)
    begins = np.concatenate([np.zeros(1, np.int64), ends + 1])
    line = np.searchsorted(ends, places)
    return begins[line], begins[line + 1]


def _is_code(codes: Codes, lines: Spans) -> np.ndarray:
    """Which lines are indented by four blanks or a tab, or stand between fences, as Markdown has them."""
    points = codes.points
    begins, _ = _whole_lines(codes, lines.start)
    code = (points[begins] == ord("\t")) | ((lines.start - begins >= _INDENT) & (points[begins] == ord(" ")))
    first = points[lines.start]
    third = np.minimum(lines.start + 2, len(points) - 1)
    fences = ((first == _TICK) | (first == _TILDE)) & (points[lines.start + 1] == first) & (points[third] == first)
    places = np.flatnonzero(fences & ~code)
    if len(places):
        records = np.searchsorted(lines.bounds, places, "right") - 1
        for record in np.unique(records).tolist():
            last = int(lines.bounds[record + 1])
            for start, stop in _fenced(codes, lines, places[records == record].tolist(), last):
                code[start:stop] = True
    return code


def _fenced(codes: Codes, lines: Spans, places: list[int], last: int) -> Iterator[tuple[int, int]]:
    """The lines from each fence to its end; a fence without an end goes on to the end of the record."""
    begin, opened = -1, ""
    for place in places:
        line = codes.points[lines.start[place] : lines.end[place]].tobytes().decode("utf-32-le", "surrogatepass")
        mark = line[: len(line) - len(line.lstrip(line[0]))]
        info = line[len(mark) :]
        if begin < 0 and not (mark[0] == "`" and "`" in info):
            begin, opened = place, mark
        elif begin >= 0 and mark.startswith(opened) and not info:
            yield begin, place + 1
            begin = -1
    if begin >= 0:
        yield begin, last
