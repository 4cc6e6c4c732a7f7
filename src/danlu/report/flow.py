"""What went into a stage, what came out, and what was dropped on the way, read from its manifest and its curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from danlu.report.curves import Curve

Amounts = list[tuple[str, float]]
READ = ("rows", "records")
"""Reasons under which readers count what they have read; all other reasons tell of something dropped or mended."""


def taken(manifest: dict[str, Any], curve: Curve | None) -> Amounts:
    """What the stage read: bytes and rows of files, or examples and tokens of training."""
    amounts: Amounts = []
    if size := sum(file["bytes"] for file in manifest.get("inputs", [])):
        amounts.append(("bytes", size))
    rows = sum(entry["count"] for reason, entry in _counted(manifest) if reason == "rows")
    if rows:
        amounts.append(("rows", rows))
    if curve:
        columns = (("consumed", "examples"), ("tokens", "tokens"), ("epoch", "epochs"))
        amounts += [(name, points[-1][1]) for column, name in columns if (points := curve.points(column))]
    return amounts


def given(manifest: dict[str, Any], curve: Curve | None) -> Amounts:
    """What the stage wrote: records by kind, examples and tokens of each split, or steps of training."""
    amounts = [(name, float(count)) for name, count in manifest.get("counts", {}).items() if isinstance(count, int)]
    kept: Counter[str] = Counter()
    for name, source in manifest.get("sources", {}).items() if isinstance(manifest.get("sources"), dict) else ():
        kept[name.partition("/")[0]] += source.get("kept", 0)
    amounts += [(kind, count) for kind, count in kept.items() if count]
    for split in ("train", "held_out"):
        content = manifest.get(split, {})
        amounts += [(f"{name}, {split}", content[name]) for name in ("examples", "tokens") if content.get(name)]
    if "entries" in manifest:
        amounts.append(("entries", manifest["entries"]))
    if curve:
        amounts.append(("steps", curve.rows[-1]["step"]))
    return amounts


def dropped(manifest: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(reason, count, examples of where) of all that was dropped or mended, the greatest count first."""
    counts: Counter[str] = Counter()
    where: dict[str, list[str]] = {}
    for reason, entry in _counted(manifest):
        if reason not in READ and entry["count"]:
            counts[reason] += entry["count"]
            where.setdefault(reason, []).extend(map(str, entry["examples"]))
    return [(reason, count, "\n".join(where[reason][:5])) for reason, count in counts.most_common()]


def _counted(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every reason with its {count, examples}: of the stage, of each source, and of cutting to the length."""
    sources = manifest.get("sources", {})
    parts = [manifest, *(sources.values() if isinstance(sources, dict) else ())]
    tables = [part.get(name, {}) for part in parts for name in ("counts", "read", "left_out", "dropped")]
    for table in tables:
        yield from ((reason, entry) for reason, entry in table.items() if isinstance(entry, dict))
    cuts = [manifest.get(split, {}).get("cuts", {}) for split in ("train", "held_out")]
    for table in (*cuts, manifest.get("cut_or_dropped", {})):
        yield from ((reason, {"count": count, "examples": []}) for reason, count in table.items())
