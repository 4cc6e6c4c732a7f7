"""What differs between two groups of settings, name by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SHOWN = 60  # letters of a value


def differences(before: Mapping[str, Any], now: Mapping[str, Any], absent: str = "nothing") -> dict[str, str]:
    """For JSON-like settings that differ, "old → new" by their dotted names; in lists of groups by place:
    sources[0].weight. `absent` stands for a value that is not there.
    """
    old, new = _flat(before), _flat(now)
    names = [name for name in {**old, **new} if old.get(name, ...) != new.get(name, ...)]
    return {name: f"{_shown(old, name, absent)} → {_shown(new, name, absent)}" for name in names}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        parts = [(f"{name}.{key}" if name else key, inner) for key, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        parts = [(f"{name}[{place}]", inner) for place, inner in enumerate(value)]
    else:
        return {name: value}
    return {inner: held for part, of in parts for inner, held in _flat(of, part).items()}


def _shown(values: Mapping[str, Any], name: str, absent: str) -> str:
    if name not in values:
        return absent
    text = json.dumps(values[name], ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
