"""What a record's `meta` says that is kept beside its tokens: numbers to order by, tags to report by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST = 64
"""Numbers that are kept, the first by name, so that rows whose columns are data cost no more."""


def labels_of(meta: dict[str, Any]) -> tuple[str, ...]:
    """`meta.tags` as "age=25-34": {"age": {"value": "25-34", "confidence": 0.9}}; tags without a value are none."""
    tags = meta.get("tags")
    if not isinstance(tags, dict):
        return ()
    values = {name: tag.get("value") for name, tag in tags.items() if isinstance(tag, dict)}
    return tuple(sorted(f"{name}={value}" for name, value in values.items() if value is not None))


def numbers_of(meta: dict[str, Any]) -> dict[str, float]:
    """The numbers of `meta` by name, also those written as text, as all cells of a CSV file are."""
    found = {name: number for name in sorted(meta) if (number := _number(meta[name])) is not None}
    return dict(list(found.items())[:MOST])


def score_columns(numbers: Sequence[dict[str, float]]) -> tuple[list[str], np.ndarray]:
    """The names of all numbers, and float32 [records, names] with NaN where a record has none."""
    names = sorted({name for found in numbers for name in found})[:MOST]
    with np.errstate(over="ignore"):
        values = np.array([[found.get(name, np.nan) for name in names] for found in numbers], np.float64)
        return names, values.reshape(len(numbers), len(names)).astype(np.float32)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not value.strip().lstrip("+-.")[:1].isdecimal():
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
