"""Files of columns: a value of each record of a part, in the order of reading; written and read a stretch at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.ledger.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

STRETCH = 1 << 13  # rows in memory
_META = b"danlu"


class ColumnWriter:
    """Takes columns batch by batch. A type is fixed by the first values that are not None."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._writer: Any = None
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, columns: Mapping[str, Any]) -> None:
        """A value a record in each column: lists, numpy or arrow arrays."""
        import pyarrow as pa

        table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= STRETCH:
            self._write(last=False)

    def close(self, meta: dict[str, Any] | None = None) -> None:
        """Writes what is left, and `meta` beside the columns."""
        self._write(last=True)
        if meta is not None:
            self._writer.add_key_value_metadata({_META: json.dumps(meta, ensure_ascii=False)})
        self._writer.close()

    def _write(self, last: bool) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.concat_tables(self._waiting, promote_options="permissive")
        if self._writer is None:
            if not last and any(pa.types.is_null(kind) for kind in table.schema.types):
                return  # nulls weigh nothing: they wait until a value tells the type
            self._writer = parquet.ParquetWriter(self._handle, table.schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema), row_group_size=STRETCH)
        self._waiting, self._rows = [table.slice(0, 0)], 0


@contextmanager
def column_writer(path: str) -> Iterator[ColumnWriter]:
    """A writer whose file appears when the block ends well; `close` it within."""
    with atomic_file(Path(path), "wb") as handle:
        yield ColumnWriter(handle)


class ColumnReader:
    """Gives the values of rows asked for in rising order; a stretch of the file is in memory."""

    def __init__(self, path: str, names: list[str] | None = None) -> None:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16)
        self.rows = int(self._file.metadata.num_rows)
        self.names = [name for name in self._file.schema_arrow.names if names is None or name in names]
        self._batches = self._file.iter_batches(STRETCH, columns=self.names, use_threads=False)
        self._batch, self._start = next(self._batches, None), 0

    def take(self, rows: np.ndarray) -> pa.Table:
        """The values of `rows`, which rise and lie behind those asked for before."""
        import pyarrow as pa

        found, at = [], 0
        while at < len(rows):
            if self._batch is None:
                raise IndexError(f"row {rows[at]} of {self.rows}")
            stop = int(np.searchsorted(rows, self._start + self._batch.num_rows))
            if stop > at:
                found.append(self._batch.take(pa.array(rows[at:stop] - self._start)))
                at = stop
            if at < len(rows):
                self._start += self._batch.num_rows
                self._batch = next(self._batches, None)
        schema = pa.schema([self._file.schema_arrow.field(name) for name in self.names])
        return pa.Table.from_batches(found, schema)

    def close(self) -> None:
        self._file.close()


def read_meta(path: str) -> dict[str, Any]:
    """{"rows": …} and what was written beside the columns."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(path)
    return {**json.loads((metadata.metadata or {}).get(_META, b"{}")), "rows": metadata.num_rows}


class FindingsReader:
    """What was found about the rows of one task, asked for in rising order."""

    def __init__(self, files: list[str], task: int) -> None:
        from heapq import merge

        from pyarrow import parquet

        names = dict.fromkeys(name for file in files for name in parquet.read_schema(file).names)
        self.names = [name for name in names if name not in ("task", "row")]
        self._found = merge(*(_found(file, task) for file in files), key=lambda found: found[0])
        self._next = next(self._found, None)

    def take(self, rows: np.ndarray) -> dict[int, dict[str, Any]]:
        """{place among `rows`: values}; `rows` rise and lie behind those asked for before."""
        found: dict[int, dict[str, Any]] = {}
        last = int(rows[-1]) if len(rows) else -1
        while self._next is not None and self._next[0] <= last:
            row, values = self._next
            place = int(np.searchsorted(rows, row))
            if rows[place] == row:
                found[place] = values
            self._next = next(self._found, None)
        return found


def _found(file: str, task: int) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.compute as pc
    from pyarrow import parquet

    with parquet.ParquetFile(file, pre_buffer=False) as opened:
        place = opened.schema_arrow.names.index("task")
        for group in range(opened.num_row_groups):
            bounds = opened.metadata.row_group(group).column(place).statistics
            if bounds is not None and bounds.has_min_max and not bounds.min <= task <= bounds.max:
                continue
            for batch in opened.iter_batches(STRETCH, [group], use_threads=False):
                mine = batch.filter(pc.equal(batch.column("task"), task))
                for values in mine.to_pylist():
                    del values["task"]
                    yield values.pop("row"), values
