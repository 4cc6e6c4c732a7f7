"""Every cleaning step by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from danlu.text.ops import exact_dedup, language, length, normalise
from danlu.text.records import Record


@dataclass(frozen=True, slots=True)
class Operator:
    """What a step does. Measuring comes before judging, so that a threshold can move without measuring again.

    `change(record, step)` gives the record anew; `measure(records)` gives columns with a value for each record;
    `judge(values, step)` gives the reason and the value for which a record goes, or None.
    """

    change: Callable[[Record, Any], Record] | None = None
    measure: Callable[[list[Record]], dict[str, list[Any]]] | None = None
    judge: Callable[[dict[str, Any], Any], tuple[str, Any] | None] | None = None


OPERATORS = {
    "normalise": Operator(change=normalise.normalise),
    "length": Operator(measure=length.measure, judge=length.judge),
    "language": Operator(measure=language.measure, judge=language.judge),
    "exact_dedup": Operator(measure=exact_dedup.measure, judge=exact_dedup.judge),
}
