"""Histograms as cells between which a threshold can stand; what it keeps there is told exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from danlu.text.cleaning.trail import Trail
from danlu.text.settings import Step
from danlu.text.steps.base import Range

MOST_CELLS = 48
MOST_SOURCES = 12
OTHERS = "…"
"""Sources beyond the greatest ones, together."""
ROWS, CHARACTERS, TOKENS = range(3)


@dataclass(slots=True)
class Group:
    """The records of a source or of a language: by cell, and of those without a value, [rows, characters, tokens]."""

    sort: Literal["source", "language"]
    name: str
    cells: list[list[int]]
    missing: list[int] = field(default_factory=lambda: [0, 0, 0])


@dataclass(slots=True)
class Panel:
    """One measured column of one step, of all records that came to it, whatever their kind."""

    number: int
    """Of the step in the settings."""
    step: Step
    column: str
    bounds: Range | None
    """The thresholds that stand now; None where nothing is decided by this column."""
    lowest: list[float]
    highest: list[float]
    """By cell, the least and the greatest value in it."""
    groups: list[Group]
    language: str = ""
    """Of whose records alone it is, where each language has bounds of its own."""

    @property
    def setting(self) -> str:
        """What the bounds are called in the step's settings."""
        return self.language or self.column

    @property
    def free(self) -> bool:
        """Whether no threshold is set."""
        return self.bounds is None or self.bounds == Range()

    @property
    def mins(self) -> list[float | None]:
        """Thresholds by how many cells lie below them."""
        ends = [None, *(_between(*ends, after=True) for ends in zip(self.highest, self.lowest[1:], strict=False))]
        least = self.bounds.min if self.bounds else None
        return _with_present([*ends, _between(self.highest[-1], math.inf, after=True)], least, self.low)

    @property
    def maxs(self) -> list[float | None]:
        """Thresholds by how many cells they reach."""
        first = _between(-math.inf, self.lowest[0], after=False)
        ends = [first, *(_between(*ends, after=False) for ends in zip(self.highest, self.lowest[1:], strict=False))]
        return _with_present([*ends, None], self.bounds.max if self.bounds else None, self.high)

    @property
    def low(self) -> int:
        """How many cells lie below the threshold of now."""
        least = self.bounds.min if self.bounds else None
        return 0 if least is None else sum(value < least for value in self.highest)

    @property
    def high(self) -> int:
        """How many cells the threshold of now reaches."""
        most = self.bounds.max if self.bounds else None
        return len(self.lowest) if most is None else sum(value <= most for value in self.lowest)

    def cells_of(self, values: np.ndarray) -> np.ndarray:
        """The cell of each value, -1 for NaN."""
        places = np.searchsorted(np.array(self.lowest), values, "right") - 1
        return np.where(np.isnan(values), -1, np.maximum(places, 0))


def panels_of(trail: Trail) -> list[Panel]:
    """A panel for each column that was measured, in the order of the steps."""
    found: dict[tuple[int, str, str], dict[str, dict[str, Any]]] = {}
    for source, turns in trail.statistics.items():
        kind = source.partition("/")[0].removesuffix("s")
        numbers = [number for number, step in enumerate(trail.settings.steps) if kind in step.kinds]
        for turn in turns:
            if turn["number"] is None:
                continue
            for language, tally in turn["languages"].items():
                step = trail.settings.steps[numbers[turn["number"]]]
                for column, histogram in tally["columns"].items():
                    own = language if step.by_language and column in step.bounds_in(language) else ""
                    key = (numbers[turn["number"]], column, own)
                    found.setdefault(key, {})[f"{source}\n{language}"] = histogram
    made = [
        panel_of(trail.settings.steps[number], number, column, of, own)
        for (number, column, own), of in sorted(found.items())
    ]
    return [panel for panel in made if panel.lowest]


def panel_of(step: Step, number: int, column: str, found: dict[str, dict[str, Any]], language: str = "") -> Panel:
    """A panel of histograms; `found` has them by source and language, a line end between the two names."""
    ends: dict[tuple[int, float], tuple[float, float]] = {}
    for histogram in found.values():
        for section, edge, lowest, highest, *_ in histogram["bins"]:
            low, high = ends.get((section, edge), (lowest, highest))
            ends[section, edge] = min(low, lowest), max(high, highest)
    cell_of = _cells(sorted(ends))
    size = 1 + max(cell_of.values(), default=-1)
    bounds = step.bounds_in(language).get(column)
    panel = Panel(number, step, column, bounds, [math.inf] * size, [-math.inf] * size, [], language)
    for key, cell in cell_of.items():
        panel.lowest[cell] = min(panel.lowest[cell], ends[key][0])
        panel.highest[cell] = max(panel.highest[cell], ends[key][1])
    by_source = _added(found, lambda key: key.partition("\n")[0], cell_of, size)
    by_language = _added(found, lambda key: key.partition("\n")[2], cell_of, size)
    panel.groups = [Group("source", name, *of) for name, of in _greatest(by_source, size).items()]
    if set(by_language) != {""}:
        panel.groups += [Group("language", name, *of) for name, of in by_language.items()]
    return panel


def _cells(keys: list[tuple[int, float]]) -> dict[tuple[int, float], int]:
    """Bins next to each other in few cells; those on two sides of a threshold stay apart."""
    size = -(-len(keys) // MOST_CELLS)
    cells: dict[tuple[int, float], int] = {}
    cell, inside = -1, 0
    for place, key in enumerate(keys):
        if inside == 0 or inside >= size or key[0] != keys[place - 1][0]:
            cell, inside = cell + 1, 0
        cells[key] = cell
        inside += 1
    return cells


Counted = tuple[list[list[int]], list[int]]


def _added(
    found: dict[str, dict[str, Any]], name_of: Callable[[str], str], cell_of: dict[tuple[int, float], int], size: int
) -> dict[str, Counted]:
    groups: dict[str, Counted] = {}
    for key, histogram in found.items():
        cells, missing = groups.setdefault(name_of(key), ([[0, 0, 0] for _ in range(size)], [0, 0, 0]))
        missing[:] = map(sum, zip(missing, histogram["missing"], strict=True))
        for section, edge, _, _, *counts in histogram["bins"]:
            cell = cells[cell_of[section, edge]]
            cell[:] = map(sum, zip(cell, counts, strict=True))
    return groups


def _greatest(groups: dict[str, Counted], size: int) -> dict[str, Counted]:
    """The sources with most characters, the others as one."""
    if len(groups) <= MOST_SOURCES:
        return groups
    order = sorted(groups, key=lambda name: -sum(cell[CHARACTERS] for cell in groups[name][0]))
    others: Counted = ([[0, 0, 0] for _ in range(size)], [0, 0, 0])
    for name in order[MOST_SOURCES:]:
        cells, missing = groups[name]
        for mine, more in zip([*others[0], others[1]], [*cells, missing], strict=True):
            mine[:] = map(sum, zip(mine, more, strict=True))
    return {**{name: groups[name] for name in groups if name in order[:MOST_SOURCES]}, OTHERS: others}


def _with_present(ends: list[float | None], present: float | None, place: int) -> list[float | None]:
    """The thresholds, the one of now at its place."""
    return ends if present is None else [*ends[:place], present, *ends[place + 1 :]]


def _between(low: float, high: float, *, after: bool) -> float:
    """The shortest number in (low, high] where `after`, else in [low, high)."""
    if math.isinf(low) or math.isinf(high):
        end = high if math.isinf(low) else low
        low, high = (end - abs(end) / 2 - 1, end) if math.isinf(low) else (end, end + abs(end) / 2 + 1)
    size = math.floor(math.log10(max(abs(low), abs(high))))
    for digits in range(1, 18):
        unit = 10.0 ** (size - digits + 1)
        first = math.floor(low / unit)
        for number in (float(f"{(first + more) * unit:.{digits + 1}g}") for more in range(3)):
            if (low < number <= high) if after else (low <= number < high):
                return number
    return high if after else low
