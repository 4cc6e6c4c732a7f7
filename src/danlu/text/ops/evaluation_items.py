"""Test data as items: rows of any file, and the strings in them that can be looked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.files import data_files
from danlu.text.problems import BadRow
from danlu.text.readers import Piece, Wanted, read_piece
from danlu.text.steps.duplicates import EvaluationSet


@dataclass(frozen=True, slots=True)
class Item:
    """A row of test data; a paragraph of a text file."""

    test: str
    where: str
    """File and line."""
    texts: list[str]


def items(test: EvaluationSet, counts: Counts) -> Iterator[Item]:
    """The items of a test set; `counts` gets what cannot be read.

    Raises UserError for a path where nothing is, and for a column that no row has.
    """
    root, seen = Path(test.path), set[str]()

    def unreadable(problem: BadRow, where: str) -> None:
        counts.add(f"bad: {problem.reason}", where)

    for file in data_files(root):
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        for row in read_piece(Piece(str(file)), unreadable, Wanted("paragraph")):
            seen.update(row.fields)
            values = [row.fields.get(field) for field in test.fields] if test.fields else list(row.fields.values())
            yield Item(test.name or file.name.split(".")[0], f"{name}:{row.line}", list(_strings(values)))
    if not seen:
        raise UserError("there are no rows to look for", where=test.path, do="give a file with test items in it")
    if missing := set(test.fields) - seen:
        raise UserError(
            f"no row has the column {', '.join(sorted(missing))}",
            where=test.path,
            do=f"name columns that are there: {', '.join(sorted(seen))}",
        )


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
