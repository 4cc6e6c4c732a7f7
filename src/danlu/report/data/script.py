"""What the page's script works on: histograms, examples with their cells, and the settings to write back."""

from __future__ import annotations

from typing import Any

import numpy as np

from danlu.report.data.panels import OTHERS, Group, Panel
from danlu.report.data.samples import Example
from danlu.report.data.view import View
from danlu.report.reasons import language_name, measure_name
from danlu.report.words import Language

WORDS = (
    "records", "characters", "tokens", "at_least", "at_most", "no_bound", "just_kept", "just_dropped", "none_near",
    "all", "copied",
)  # fmt: skip


def script_data(view: View) -> dict[str, Any]:
    """Plain values, JSON-ready."""
    return {
        "panels": [_panel(panel, view.language) for panel in view.panels],
        "examples": [
            {"about": view.about(example), "text": view.text(example), "at": _cells(example, view.panels)}
            for example in view.samples.valued
            if example.values
        ],
        "steps": [_settings(step) for step in view.trail.settings.steps],
        "words": {key: view.say(key) for key in WORDS},
    }


def _panel(panel: Panel, language: Language) -> dict[str, Any]:
    own = f", {language_name(panel.language, language)}" if panel.language else ""
    content: dict[str, Any] = {
        "name": measure_name(panel.step.op, panel.column, language) + own,
        "ends": [[_short(value, 4) for value in ends] for ends in zip(panel.lowest, panel.highest, strict=True)],
        "low": panel.low,
        "high": panel.high,
        "groups": [
            {"sort": group.sort, "name": _name(group, language), "cells": group.cells, "missing": group.missing}
            for group in panel.groups
        ],
    }
    if panel.bounds is None:
        return content
    ranged = panel.setting in type(panel.step).model_fields  # else the step itself has `min` and `max`
    mins = panel.mins if ranged else [end or 0 for end in panel.mins]
    present = panel.bounds.model_dump(exclude_none=True) if ranged else {}
    path = [panel.setting] if ranged else []
    return {**content, "step": panel.number, "path": path, "present": present, "mins": mins, "maxs": panel.maxs}


def _name(group: Group, language: Language) -> str:
    if group.sort == "language":
        return language_name(group.name, language)
    return group.name.partition("/")[2] or OTHERS


def _cells(example: Example, panels: list[Panel]) -> dict[int, tuple[int, float]]:
    """By panel the cell and the value."""
    return {
        number: (int(panels[number].cells_of(np.array([value]))[0]), _short(value, 5))
        for number, value in example.values.items()
    }


def _settings(step: Any) -> dict[str, Any]:
    """What was set, as a recipe has it."""
    content: dict[str, Any] = step.model_dump(exclude_defaults=True)
    return {"op": step.op, **{name: value for name, value in content.items() if name != "op"}}


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
