"""Writing what is kept, and what is dropped with the step, the reason and the value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.counts import Counts
from danlu.ledger.files import atomic_file, sha256_file
from danlu.text.cleaning.columns import ColumnReader
from danlu.text.cleaning.kept_scores import KeptScores
from danlu.text.cleaning.parts import Alterations, Part, Turn
from danlu.text.ops.contents import text_of


def write(part: Part, turns: list[Turn], verdicts: str, scores: list[str], kept: str, dropped: str) -> dict[str, Any]:
    """Writes each record as the steps leave it, with the named `scores` in its meta; a dropped one as the step that
    drops it saw it.

    Gives {"kept": records, "text_bytes", "sha256"}.
    """
    altered, reader = Alterations(part, turns), ColumnReader(verdicts, ["turn", "reason", "value"])
    scored = KeptScores(scores, turns)
    start = number = text_bytes = 0
    with _row_writer(Path(kept)) as keep, _row_writer(Path(dropped)) as drop:
        for _, batch in part.batches(Counts()):
            rows = np.arange(start, start + len(batch))
            start += len(batch)
            verdict = reader.take(rows)
            turn = verdict["turn"].to_numpy()
            records = scored.onto(rows, altered.apply(rows, batch, np.where(turn < 0, len(turns), turn)))
            for record, place, reason, value in zip(
                records, turn.tolist(), verdict["reason"].to_pylist(), verdict["value"].to_pylist(), strict=True
            ):
                if place >= 0:
                    why = {"step": turns[place].step.called, "reason": reason, "value": json.loads(value)}
                    drop({**record.to_row(), **why})
                    continue
                keep(record.to_row())
                number += 1
                text_bytes += len(text_of(record).encode())
    return {"kept": number, "text_bytes": text_bytes, "sha256": sha256_file(Path(kept))}


@contextmanager
def _row_writer(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    import zstandard

    def write_row(row: dict[str, Any]) -> None:
        packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    with (
        atomic_file(path, "wb") as handle,
        zstandard.ZstdCompressor(3, write_checksum=True).stream_writer(handle, closefd=False) as packed,
    ):
        yield write_row
