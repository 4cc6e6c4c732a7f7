"""What a step did, in numbers that add up over parts: rows, characters, reasons, and histograms of what it measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from danlu.ledger.counts import Counts

_KEPT_BITS = 5  # of a float's mantissa: 32 bins between a power of two and the next


class Histogram:
    """Rows and characters by value, in bins that are the same for every column, task and run.

    A value's bin is its float64 with all but the first bits of the mantissa cleared: 1/64 wide from 0.5 to 1, one
    whole number wide from 32 to 64.
    """

    def __init__(self) -> None:
        self.bins: dict[float, list[int]] = {}
        self.missing = 0

    def add(self, values: np.ndarray, characters: np.ndarray) -> None:
        """Counts values (NaN: missing) of records with so many characters each."""
        known = ~np.isnan(values)
        self.missing += int(len(values) - np.count_nonzero(known))
        bits = np.ascontiguousarray(values[known], np.float64).view(np.int64)
        cut = (bits >> (52 - _KEPT_BITS) << (52 - _KEPT_BITS)).view(np.float64) + 0.0  # -0.0 is 0.0
        edges, places, rows = np.unique(cut, return_inverse=True, return_counts=True)
        weights = np.bincount(places, characters[known], len(edges)).astype(np.int64)
        for edge, count, weight in zip(edges.tolist(), rows.tolist(), weights.tolist(), strict=True):
            self._add(edge, count, weight)

    def merge(self, other: dict[str, Any]) -> None:
        """Adds what `as_dict` of another one gave."""
        self.missing += other["missing"]
        for edge, rows, characters in other["bins"]:
            self._add(edge, rows, characters)

    def as_dict(self) -> dict[str, Any]:
        """{"missing": rows, "bins": [[edge towards zero, rows, characters], ...]}, edges rising."""
        return {"missing": self.missing, "bins": [[edge, *self.bins[edge]] for edge in sorted(self.bins)]}

    def _add(self, edge: float, rows: int, characters: int) -> None:
        entry = self.bins.setdefault(edge, [0, 0])
        entry[0] += rows
        entry[1] += characters


class Tally:
    """What a step did to the records that it looked at."""

    NUMBERS = ("rows", "changed", "characters_in", "characters_out")

    def __init__(self) -> None:
        self.numbers = dict.fromkeys(self.NUMBERS, 0)
        self.dropped = Counts()
        self.columns: dict[str, Histogram] = {}

    def add(self, **numbers: Any) -> None:
        for name, number in numbers.items():
            self.numbers[name] += int(number)

    def merge(self, other: dict[str, Any]) -> Self:
        """Adds what `as_dict` of another one gave."""
        self.add(**{name: other[name] for name in self.NUMBERS})
        self.dropped.merge(Counts.from_dict(other["dropped"]))
        for name, histogram in other["columns"].items():
            self.columns.setdefault(name, Histogram()).merge(histogram)
        return self

    def as_dict(self) -> dict[str, Any]:
        columns = {name: histogram.as_dict() for name, histogram in self.columns.items()}
        return {**self.numbers, "dropped": self.dropped.as_dict(), "columns": columns}


def merged(tallies: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One tally of many."""
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return total.as_dict()
