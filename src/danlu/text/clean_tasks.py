"""The tasks that cleaning is made of: each reads pieces of a source and writes files, again and again the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from danlu.ledger.counts import Counts
from danlu.ledger.files import atomic_file, sha256_file
from danlu.text.ops.contents import text_of
from danlu.text.ops.exact_dedup import read_twins
from danlu.text.ops.language import language_of
from danlu.text.ops.table import OPERATORS
from danlu.text.problems import BadRow
from danlu.text.readers import Piece
from danlu.text.records import Record
from danlu.text.settings import SourceSettings, Step
from danlu.text.source import read_pieces
from danlu.text.steps.base import Kind
from danlu.text.steps.basic import LanguageStep
from danlu.text.structure import checked

BATCH = 256  # records in memory
ROW_GROUP = 32 * BATCH  # rows of columns in memory
_STEPS: TypeAdapter[list[Step]] = TypeAdapter(list[Step])


def measure(
    source: dict[str, Any], kind: Kind, pieces: list[dict[str, Any]], steps: list[dict[str, Any]], out: str
) -> dict[str, Any]:
    """Writes a row of measured values for each record, in the order of reading. Returns {"records", "counts"}."""
    import pyarrow as pa
    from pyarrow import parquet

    counts, total, writer = Counts(), 0, None
    todo = _STEPS.validate_python(steps)
    with atomic_file(Path(out), "wb") as handle:
        for columns in _in_row_groups(_measured(batch, todo) for batch in _batches(source, kind, pieces, counts)):
            table = pa.table(columns)
            writer = writer or parquet.ParquetWriter(handle, table.schema)
            writer.write_table(table.cast(writer.schema))
            total += table.num_rows
        if writer is None:
            writer = parquet.ParquetWriter(handle, pa.table(_measured([], todo)).schema)
        writer.close()
    return {"records": total, "counts": counts.as_dict()}


def judge(
    source: dict[str, Any],
    kind: Kind,
    pieces: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    columns: str,
    task: int,
    twins: list[str],
    kept: str,
    dropped: str,
) -> dict[str, Any]:
    """Writes what is kept, and what is dropped with reason and value.

    Returns {"kept", "dropped": counts by reason, "languages", "text_bytes", "sha256"}.
    """
    todo, counts, languages, rows, text_bytes = _STEPS.validate_python(steps), Counts(), Counter[str](), 0, 0
    first = read_twins(twins, task)
    language = next((step for step in todo if isinstance(step, LanguageStep)), None)
    records = (record for batch in _batches(source, kind, pieces, Counts()) for record in batch)
    with _row_writer(Path(kept)) as keep, _row_writer(Path(dropped)) as drop:
        for row, (record, values) in enumerate(zip(records, _rows(Path(columns)), strict=True)):
            record, verdict = _judged(record, {**values, "exact_dedup.twin": first.get(row)}, todo)
            if verdict:
                step, reason, value = verdict
                counts.add(f"{step}: {reason}", record.meta["origin"])
                drop({**record.to_row(), "step": step, "reason": reason, "value": value})
                continue
            keep(record.to_row())
            rows += 1
            text_bytes += len(text_of(record).encode())
            if language:
                languages[language_of(_own(values, "language"), language)] += 1
    return {
        "kept": rows,
        "dropped": counts.as_dict(),
        "languages": dict(languages),
        "text_bytes": text_bytes,
        "sha256": sha256_file(Path(kept)),
    }


def _batches(
    source: dict[str, Any], kind: Kind, pieces: list[dict[str, Any]], counts: Counts
) -> Iterator[list[Record]]:
    # Whether too many rows are bad is a question to the whole source, so it is asked after all tasks.
    settings = SourceSettings(**{**source, "max_bad_share": 1.0})
    records = iter(read_pieces(settings, kind, [Piece(**piece) for piece in pieces], counts))
    while batch := list(islice(records, BATCH)):
        yield batch


def _measured(records: list[Record], steps: list[Step]) -> dict[str, list[Any]]:
    """A column for each value that the steps measure, of the record as it is when the step's turn comes."""
    columns: dict[str, list[Any]] = {"origin": [record.meta["origin"] for record in records]}
    for step in steps:
        operator = OPERATORS[step.op]
        if operator.change:
            records = [operator.change(record, step) for record in records]
        if operator.measure:
            columns.update({f"{step.op}.{name}": list(values) for name, values in operator.measure(records, step).items()})
    return columns


def _judged(record: Record, values: dict[str, Any], steps: list[Step]) -> tuple[Record, tuple[str, str, Any] | None]:
    """The record as all steps leave it, and the first step that drops it with its reason and value."""
    verdict: tuple[str, str, Any] | None = None
    for step in steps:
        operator = OPERATORS[step.op]
        if operator.change:
            record = operator.change(record, step)
            try:
                checked(record)
            except BadRow as problem:
                verdict = verdict or (step.op, problem.reason, problem.detail)
        if operator.judge and verdict is None and (found := operator.judge(_own(values, step.op), step)):
            verdict = (step.op, *found)
    return record, verdict


def _own(values: dict[str, Any], op: str) -> dict[str, Any]:
    return {name.removeprefix(f"{op}."): value for name, value in values.items() if name.startswith(f"{op}.")}


def _in_row_groups(batches: Iterable[dict[str, list[Any]]]) -> Iterator[dict[str, list[Any]]]:
    gathered: dict[str, list[Any]] = {}
    for batch in batches:
        for name, values in batch.items():
            gathered.setdefault(name, []).extend(values)
        if len(gathered["origin"]) >= ROW_GROUP:
            yield gathered
            gathered = {}
    if gathered:
        yield gathered


def _rows(columns: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with parquet.ParquetFile(columns) as file:
        for batch in file.iter_batches(ROW_GROUP):
            yield from batch.to_pylist()


@contextmanager
def _row_writer(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    import zstandard

    def write(row: dict[str, Any]) -> None:
        packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    with (
        atomic_file(path, "wb") as handle,
        zstandard.ZstdCompressor(3, write_checksum=True).stream_writer(handle, closefd=False) as packed,
    ):
        yield write
