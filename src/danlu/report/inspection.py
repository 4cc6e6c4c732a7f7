"""What the check of a packed set found: who speaks how many tokens, and how many of them are in the loss."""

from __future__ import annotations

from typing import Any

from danlu.report.runs import Run
from danlu.report.scores import Table
from danlu.report.words import Language, number, percent, say

COLOURS = {"system": 5, "user": 1, "assistant": 0, "tool": 3, "none": 6}


def inspections(run: Run, language: Language) -> list[dict[str, Any]]:
    """For each packing stage that was inspected: shares of all tokens by role, and a table of what is in the loss."""
    found = []
    for stage in run.stages:
        roles = stage.manifest.get("inspection", {}).get("roles", {})
        if not roles:
            continue
        total = sum(role["tokens"] for role in roles.values())
        shares = [
            {
                "name": name,
                "colour": COLOURS.get(name, 7),
                "width": round(100 * role["tokens"] / total, 2),
                "percent": percent(role["tokens"] / total),
            }
            for name, role in roles.items()
        ]
        rows = [
            [name, number(role["tokens"]), number(role["in_loss"]), percent(role["in_loss"] / max(role["tokens"], 1))]
            for name, role in roles.items()
        ]
        head = [say(key, language) for key in ("role", "tokens", "in_loss", "share")]
        found.append({"name": stage.name, "shares": shares, "table": Table(stage.name, head, rows)})
    return found
