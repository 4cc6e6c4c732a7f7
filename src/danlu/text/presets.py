"""Presets: lists of cleaning steps by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

PresetName = Literal["zh", "en", "mixed", "dialogue"]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)


def preset_steps(name: str) -> list[dict[str, Any]]:
    """The steps of a preset as a recipe would write them."""
    from danlu.config import read_yaml

    content, _ = read_yaml(Path(__file__).with_name("presets.yaml"))
    steps: list[dict[str, Any]] = content[name]
    return steps
