"""What a step did, in numbers that add up over parts: rows, characters, reasons, and histograms of what it measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from danlu.ledger.counts import Counts
from danlu.text.steps.base import Range

_KEPT_BITS = 5  # of a float's mantissa: 32 bins between a power of two and the next


class Histogram:
    """Rows, characters and tokens by value, in bins that are the same for every column, task and run.

    A value's bin is its float64 with all but the first bits of the mantissa cleared: 1/64 wide from 0.5 to 1, one
    whole number wide from 32 to 64. `bounds` cuts the bins in which its ends lie, and each bin knows its lowest and
    highest value: so what a threshold at the bounds, or between two bins, keeps can be told exactly.
    """

    def __init__(self, bounds: Range | None = None) -> None:
        ends = [] if bounds is None else [bounds.min, None if bounds.max is None else np.nextafter(bounds.max, np.inf)]
        self._ends = np.array([end for end in ends if end is not None], np.float64)
        self.bins: dict[tuple[int, float], list[Any]] = {}
        self.missing = [0, 0, 0]

    def add(self, values: np.ndarray, characters: np.ndarray, tokens: np.ndarray) -> None:
        """Counts values (NaN: missing) of records with so many characters and tokens each."""
        none = np.isnan(values)
        if none.any():
            found = (np.count_nonzero(none), characters[none].sum(), tokens[none].sum())
            self.missing = [old + int(new) for old, new in zip(self.missing, found, strict=True)]
        order = np.flatnonzero(~none)[np.argsort(values[~none], kind="stable")]
        if not len(order):
            return
        known = np.ascontiguousarray(values[order], np.float64)
        edges = (known.view(np.int64) >> (52 - _KEPT_BITS) << (52 - _KEPT_BITS)).view(np.float64) + 0.0  # -0.0 is 0.0
        sections = np.searchsorted(self._ends, known, "right")
        fresh = (edges[1:] != edges[:-1]) | (sections[1:] != sections[:-1])
        starts = np.concatenate([[0], np.flatnonzero(fresh) + 1])
        ends = np.append(starts[1:], len(known))
        columns = (
            sections[starts], edges[starts], known[starts], known[ends - 1], ends - starts,
            np.add.reduceat(characters[order], starts), np.add.reduceat(tokens[order], starts),
        )  # fmt: skip
        for section, edge, *entry in zip(*(column.tolist() for column in columns), strict=True):
            self._add((section, edge), entry)

    def merge(self, other: dict[str, Any]) -> None:
        """Adds what `as_dict` of another one gave."""
        self.missing = [mine + theirs for mine, theirs in zip(self.missing, other["missing"], strict=True)]
        for section, edge, *entry in other["bins"]:
            self._add((section, edge), entry)

    def as_dict(self) -> dict[str, Any]:
        """{"missing": [rows, characters, tokens], "bins": [[number of ends below, edge towards zero, lowest, highest,
        rows, characters, tokens], ...]}, values rising."""
        return {"missing": self.missing, "bins": [[*key, *self.bins[key]] for key in sorted(self.bins)]}

    def _add(self, key: tuple[int, float], entry: list[Any]) -> None:
        lowest, highest, *counts = entry
        mine = self.bins.setdefault(key, [lowest, highest, 0, 0, 0])
        mine[:2] = min(mine[0], lowest), max(mine[1], highest)
        mine[2:] = [old + int(new) for old, new in zip(mine[2:], counts, strict=True)]


class Tally:
    """What a step did to the records that it looked at."""

    NUMBERS = ("rows", "changed", "characters_in", "characters_out", "tokens_in", "tokens_out")

    def __init__(self, bounds: Mapping[str, Range] | None = None) -> None:
        self._bounds = bounds or {}
        self.numbers = dict.fromkeys(self.NUMBERS, 0)
        self.dropped = Counts()
        self.columns: dict[str, Histogram] = {}

    def column(self, name: str) -> Histogram:
        """The histogram of a column."""
        if name not in self.columns:
            self.columns[name] = Histogram(self._bounds.get(name))
        return self.columns[name]

    def add(self, **numbers: Any) -> None:
        for name, number in numbers.items():
            self.numbers[name] += int(number)

    def merge(self, other: dict[str, Any]) -> Self:
        """Adds what `as_dict` of another one gave."""
        self.add(**{name: other[name] for name in self.NUMBERS})
        self.dropped.merge(Counts.from_dict(other["dropped"]))
        for name, histogram in other["columns"].items():
            self.column(name).merge(histogram)
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
