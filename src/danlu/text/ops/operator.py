"""What a cleaning step does: up to five functions, each with one duty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.text.records import Record

if TYPE_CHECKING:
    from danlu.text.cleaning.gathering import Gathering

Column = list[Any] | np.ndarray
"""One value a record: numbers, text, or None where there is none. A uint64 is a hash, any other number a quantity."""

Scorer = Callable[[list[Any]], np.ndarray]
"""What a room above hands in: texts (for a reward: lists of messages) to one value each, by a tokenizer or a model."""


@dataclass(frozen=True, slots=True)
class Operator:
    """The functions of a step, called in this order with its settings; what a step does not need stays None.

    Measuring comes before judging, so that a threshold can move and nothing is measured again.
    """

    change: Callable[[Record, Any], Record] | None = None
    """(record, step): the record anew, or itself where there is nothing to change. Pure; drops nothing."""

    measure: Callable[[list[Record], Any], Mapping[str, Column]] | None = None
    """(records, step): columns by name, of the records as `change` and the steps before leave them. Also for []."""

    score: Callable[[list[Record], Any, Scorer], Mapping[str, Column]] | None = None
    """(records, step, scorer): as `measure`, for a step that needs a function of a room above."""

    gather: Callable[[Gathering, Any], list[Path]] | None = None
    """(gathering, step): looks across all records of a kind. Gives parquet files with `task` and `row`, rising within
    a file, and a column for each value found; a record stands in them once at most."""

    judge: Callable[[dict[str, Any], Any], tuple[str, Any] | None] | None = None
    """(values, step): the reason and the value for which a record goes, or None. `values` are its own columns and
    what was found about it; of a record about which nothing was found, those are None."""

    edit: Callable[[Record, dict[str, Any], Any], Record] | None = None
    """(record, values, step): a change that needs findings, called where there are some. Later steps see what it
    leaves, so what they measure waits for it."""

    version: int = 1
    """To be raised with every change of code that makes other values of the same text."""
