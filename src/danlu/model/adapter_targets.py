"""Which modules an adapter is on, as its adapter_config.json says it by PEFT's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.model.adapt import ALL_LINEAR

_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Targets:
    """A text is a regular expression for a module's whole path; a tuple holds what paths end in."""

    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...]
    """Empty: all. They narrow ends of paths down, and neither whole paths nor a regular expression."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Targets:
        """Raises re.error for what is no regular expression."""
        layers = config.get("layers_to_transform")
        return cls(
            _pattern(config.get("target_modules")),
            _pattern(config.get("exclude_modules")),
            (layers,) if isinstance(layers, int) else tuple(layers or ()),
        )

    def __contains__(self, path: str) -> bool:
        if self.excluded and _matches(self.excluded, path):
            return False
        if isinstance(self.targets, str) or path in self.targets or not self.layers:
            return _matches(self.targets, path)
        return _matches(self.targets, path) and layer_of(path) in self.layers


def layer_of(path: str) -> int | None:
    """The number of the layer that a module's path lies in."""
    found = _LAYER.search(path)
    return int(found[1]) if found else None


def matching(pattern: Mapping[str, float], module: str, default: float) -> float:
    """What rank_pattern or alpha_pattern gives a module: a key is a regular expression for the end of its path."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _pattern(value: str | list[str] | None) -> str | tuple[str, ...]:
    if isinstance(value, str):
        re.compile(value)
        return value
    return tuple(sorted(value or ()))


def _matches(pattern: str | tuple[str, ...], path: str) -> bool:
    if isinstance(pattern, str):
        return pattern == ALL_LINEAR or re.fullmatch(pattern, path) is not None
    return any(f".{path}".endswith(f".{end}") for end in pattern)
