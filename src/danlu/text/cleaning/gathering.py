"""What a step that looks across records works with: the columns of all parts, the rows still alive, and their texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.tasks import Task

Part = dict[str, Any]
"""A part as a task gets it among its arguments: plain JSON. Look into it with the functions of `parts`."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """All records of one kind, part by part. A record is (task, row): the number of its part and its place there.

    Work goes into tasks, whose functions stand at the top of a module and take JSON-like arguments; a part is one.
    Memory must not depend on the corpus: cut what crosses parts into buckets by hash, about `rows` / 4 million.

        def gather(gathering: Gathering, step: ExactDedupStep) -> list[Path]:
            buckets = 1 + sum(gathering.rows) // BUCKET_ROWS
            found = [gathering.folder / f"twins-{bucket:05d}.parquet" for bucket in range(buckets)]
            gathering.run(
                [
                    Task(
                        f"twins {bucket}",
                        find_twins,
                        {"parts": gathering.parts, "bucket": bucket, "buckets": buckets, "out": str(path)},
                        outputs=[path],
                    )
                    for bucket, path in enumerate(found)
                ],
                "find equals",
            )
            return found

    Within a task, of `danlu.text.cleaning.parts`:

        live_columns(part, ["hash"])    (rows, {"hash": array}) a batch: own columns of the rows alive at this step
        texts(part, rows)               (row, text) of the given rows in rising order, as they are at this step
        origins(part, rows)             "file:line" of the given rows, by which a twin is named
    """

    parts: list[Part]
    rows: list[int]
    """How many records each part has."""
    characters: list[int]
    """How many characters of text each part has."""
    folder: Path
    """For findings and for what tasks leave for later tasks; another folder whenever columns, rows alive or settings
    differ, so inputs of tasks need no naming, and what lies here under a task's name is right."""
    run: Callable[[list[Task], str], list[Any]]
    """(tasks, title): runs them in the worker processes, those already done left out; their results in order."""
