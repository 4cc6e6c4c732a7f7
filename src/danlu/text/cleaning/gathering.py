"""What a step that looks across records works with: the columns of all parts, the rows still alive, and their texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.tasks import Task
from danlu.text.cleaning.live import LivePart


@dataclass(frozen=True, slots=True)
class Gathering:
    """All records of one kind, part by part. A record is (task, row): the number of its part and its place there.

    Work goes into tasks, whose functions stand at the top of a module; among their arguments are parts, whose methods
    `columns`, `texts`, `records` and `origins` read in bounded memory. Memory must not depend on the corpus: what
    crosses parts is cut into buckets by hash, their number by `rows`.

        def gather(gathering: Gathering, step: ExactDedupStep) -> list[Path]:
            buckets = 1 + gathering.rows // BUCKET_ROWS
            found = [gathering.folder / f"twins-{bucket:05d}.parquet" for bucket in range(buckets)]
            tasks = [
                Task(
                    f"twins {bucket}",
                    find_twins,
                    {"parts": gathering.parts, "bucket": bucket, "buckets": buckets, "out": str(path)},
                    outputs=[path],
                )
                for bucket, path in enumerate(found)
            ]
            gathering.run(tasks, "find equals")
            return found

        def find_twins(parts: list[LivePart], bucket: int, buckets: int, out: str) -> int:
            for part in parts:
                for rows, columns in part.columns(["hash"]):
                    ...

    Operators import this module under TYPE_CHECKING: the engine stands above them.
    """

    parts: list[LivePart]
    folder: Path
    """For findings and for what tasks leave for later tasks. Another folder whenever columns, rows alive or settings
    differ, so `inputs` of tasks need to name only what other tasks of this gathering wrote."""
    run: Callable[[list[Task], str], list[Any]]
    """(tasks, title): runs them in the worker processes, those already done left out; their results in order."""

    @property
    def rows(self) -> int:
        """How many records there are, dead ones too."""
        return sum(part.rows for part in self.parts)
