"""Judging by ranges: how every step that measures numbers decides."""

from __future__ import annotations

from typing import Any

from danlu.text.steps.statistics import RangesStep


def judge(values: dict[str, Any], step: RangesStep) -> tuple[str, Any] | None:
    """The first range that a record's value lies outside of, and the value."""
    found = (bounds.judge(name.replace("_", " "), values[name]) for name, bounds in step.ranges().items())
    return next((verdict for verdict in found if verdict), None)
