"""The text that a tokenizer learns from: an even sample of its sources, and what of them was taken."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.ledger.counts import Counts
from danlu.text.files import source_files, source_name
from danlu.text.readers import Piece
from danlu.text.records import Document, Record
from danlu.text.settings import SourceSettings
from danlu.text.source import read_pieces, read_records

MOST_OPEN = 32  # files read side by side; each may hold some megabytes for unpacking


class TrainingText:
    """Documents from all files side by side, each file's share as its size and its source's weight, until `limit`.

    Once iterated over, `taken` says how many UTF-8 bytes came from each source and `whole` whether that was all.
    """

    def __init__(self, sources: list[SourceSettings], limit: int, counts: Counts) -> None:
        self._sources, self._limit, self._counts = sources, limit, counts
        self.taken = dict.fromkeys(map(source_name, sources), 0)
        self.files, self.whole = 0, True

    def __iter__(self) -> Iterator[str]:
        readers = [reader for source in self._sources for reader in self._readers(source)]
        waiting = [(0.0, number) for number in range(len(readers))]  # a heap: bytes taken for each of the share
        total = 0
        while waiting:
            done, number = heapq.heappop(waiting)
            name, share, records = readers[number]
            record = next(records, None)
            if record is None:
                continue
            if total >= self._limit:
                self.whole = False
                return
            if isinstance(record, Document):
                size = len(record.text.encode("utf-8", "replace"))
                self.taken[name] += size
                total, done = total + size, done + size / share
                yield record.text
            heapq.heappush(waiting, (done, number))

    def summary(self) -> dict[str, Any]:
        """What was taken, for a manifest; of the last document perhaps only the beginning was used."""
        return {"bytes": sum(self.taken.values()), "sources": self.taken, "files": self.files, "whole": self.whole}

    def note(self) -> str:
        """A sentence for who would otherwise think that all of the text was read."""
        if self.whole:
            return ""
        size = sum(self.taken.values()) / 1e6
        return (
            f"The tokenizer learned from {size:,.1f} MB of text, an even share of {self.files} files; there is more "
            "(tokenizer.train.max_bytes)."
        )

    def _readers(self, source: SourceSettings) -> Iterator[tuple[str, float, Iterator[Record]]]:
        """For the source's files: its name, the share, the records."""
        files = source_files(source, "document", self._counts)
        name = source_name(source)
        if source.limit is not None:  # "the first rows" are known only to who reads a source in order
            self.files += len(files)
            yield name, source.weight * _size(files), read_records(source, "document", self._counts)
            return
        most = max(1, MOST_OPEN // len(self._sources))
        if len(files) > most:
            files = [files[number * len(files) // most] for number in range(most)]
            self.whole = False
        self.files += len(files)
        for file in files:
            records = read_pieces(source, "document", [Piece(str(file))], self._counts)
            yield name, source.weight * _size([file]), records


def _size(files: list[Path]) -> int:
    return max(1, sum(file.stat().st_size for file in files))
