"""Texts with labels: read, each content once, and cut into what is learned from and what is held out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.cleaning.sources import kind_of
from danlu.text.holdout import is_held_out
from danlu.text.ops.contents import text_of
from danlu.text.pieces import Row
from danlu.text.problems import BadRow
from danlu.text.readers import read_rows
from danlu.text.records import Document, content_hash
from danlu.text.settings import CleanSource
from danlu.text.source import read_records

LONGEST = 20_000  # characters; what a text is shows before
MOST = 200_000  # examples of a label
FEWEST = 10
MOST_LABELS = 200
_SPREAD = 0x9E3779B97F4A7C15
_LABEL = "__label__"


@dataclass(frozen=True, slots=True)
class Example:
    """A text, what it is, and where it stands ("file:line")."""

    text: str
    label: str
    where: str


@dataclass(frozen=True, slots=True)
class Fields:
    """What the columns of a labelled file are called."""

    text: str = "text"
    label: str = "label"


def read_labelled(path: Path, fields: Fields, counts: Counts) -> Iterator[Example]:
    """The rows of a file or folder with a text and a label; lines of a .txt file as fastText has them, `__label__…`.

    `counts` gets "examples", and by reason the rows that cannot be used.
    """

    def bad(problem: BadRow, where: str) -> None:
        counts.add(f"bad: {problem.reason}", where)

    for row in read_rows(path, bad, document="line"):
        try:
            yield _example(row, fields, counts)
        except BadRow as problem:
            bad(problem, row.where)


def read_as(path: Path, label: str, counts: Counts) -> Iterator[Example]:
    """All records of a source as examples of one label; the folders that `clean` writes too."""
    source = CleanSource(path=str(path))
    for record in read_records(source, kind_of(source), counts):
        counts.add("examples")
        yield Example(_cut(text_of(record), counts), label, str(record.meta["origin"]))


def _example(row: Row, fields: Fields, counts: Counts) -> Example:
    text, label = row.fields.get(fields.text), row.fields.get(fields.label)
    if set(row.fields) == {"text"} and str(row.fields["text"]).startswith(_LABEL):
        label, _, text = row.fields["text"].removeprefix(_LABEL).partition(" ")
        if text.startswith(_LABEL):
            raise BadRow("several labels")
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"no text in {fields.text}", ", ".join(row.fields))
    if not isinstance(label, str | int | bool) or label == "":
        raise BadRow(f"no label in {fields.label}", ", ".join(row.fields))
    counts.add("examples")
    return Example(_cut(text, counts), str(label), row.where)


def _cut(text: str, counts: Counts) -> str:
    if len(text) > LONGEST:
        counts.add(f"cut: longer than {LONGEST:,} characters")
    return text[:LONGEST]


class Labelled:
    """Examples of which no two have the same text, at most `MOST` of each label: those that a hash chooses."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._found: dict[int, Example] = {}
        self._tests: set[int] = set()

    def add(self, examples: Iterable[Example], *, test: bool = False) -> None:
        """Takes examples in, with `test` such as are not learned from; the first of a text stays."""
        for example in examples:
            key = content_hash(Document(example.text))
            known = self._found.setdefault(key, example)
            if test:
                self._tests.add(key)
            if known is not example:
                same = known.label == example.label
                self._counts.add("left out: same text" if same else "left out: same text, other label", example.where)

    def split(self, share: float) -> tuple[list[Example], list[Example]]:
        """(to learn from, held out): held out are the tests; where there are none, a share that the content decides."""
        chosen = sorted(self._found, key=lambda key: key * _SPREAD % 2**64)
        taken = Counts()
        learned: list[Example] = []
        held: list[Example] = []
        for key in chosen:
            example = self._found[key]
            taken.add(example.label)
            if taken[example.label] > MOST:
                self._counts.add(f"left out: more than {MOST:,} of a label")
                continue
            out = key in self._tests if self._tests else is_held_out(key, share)
            (held if out else learned).append(example)
        return learned, held


def labels_of(learned: list[Example], held: list[Example]) -> list[str]:
    """The labels in order. Raises UserError where there are fewer than two, or too few examples of one."""
    labels = sorted({example.label for example in [*learned, *held]})
    if len(labels) < 2:
        found = f"only the label {labels[0]}" if labels else "no labelled text"
        raise UserError(f"there is {found}", do="give examples of at least two labels")
    if len(labels) > MOST_LABELS:
        raise UserError(f"there are {len(labels)} labels", do="name a column of classes, not of measures or ids")
    for label in labels:
        several, tests = _count(label, learned), _count(label, held)
        if several < FEWEST or not tests:
            raise UserError(
                f"the label {label} has {several} texts to learn from and {tests} held out",
                do=f"give at least {FEWEST} to learn from and some to test on, or hold out another share",
            )
    return labels


def _count(label: str, examples: list[Example]) -> int:
    return sum(example.label == label for example in examples)
