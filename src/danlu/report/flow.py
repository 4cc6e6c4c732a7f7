"""What went into a stage, what came out, and what was dropped on the way, read from its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.ledger.manifest import read_manifest

Amounts = list[tuple[str, float]]

_LISTS = ("shards", "files", "settings")
"""Parts of a manifest that name files and settings, and hold no amounts of the stage."""


def taken(manifest: dict[str, Any]) -> Amounts:
    """What the stage read."""
    return _amounts(manifest.get("in", {}))


def given(manifest: dict[str, Any], folder: Path | None) -> Amounts:
    """What the stage wrote; a packing stage's token sets are added up for each of its splits."""
    amounts = _amounts(manifest.get("out", {})) or _amounts(manifest.get("counts", {})) or _amounts(manifest)
    for split in ("train", "held_out"):
        sets = [read_manifest(path) or {} for path in sorted((folder / split).glob("*"))] if folder else []
        for name in ("examples", "tokens"):
            total = sum(content.get(name, 0) for content in sets)
            if total:
                amounts.append((f"{name}, {split}", total))
    return amounts


def dropped(manifest: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(reason, count, examples of where) of all that was dropped or mended, the greatest count first."""
    found: dict[str, tuple[int, list[str]]] = {}
    for reason, entry in _counted(manifest):
        count, where = found.get(reason, (0, []))
        found[reason] = (count + entry["count"], [*where, *entry["examples"]])
    rows = [(reason, count, "\n".join(map(str, where[:5]))) for reason, (count, where) in found.items() if count]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _amounts(content: Any) -> Amounts:
    """Plain numbers of one level; a number there is an amount, a switch is not."""
    if not isinstance(content, dict):
        return []
    return [
        (name.replace("_", " "), float(value))
        for name, value in content.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _counted(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every {reason: {count, examples}} inside a manifest: the form that `Counts` writes."""
    if isinstance(content, list):
        for item in content:
            yield from _counted(item)
    if not isinstance(content, dict):
        return
    for name, value in content.items():
        if isinstance(value, dict) and value.keys() == {"count", "examples"}:
            yield name, value
        elif name not in _LISTS:
            yield from _counted(value)
