"""Who speaks how many of the packed training tokens, and how many of them are in the loss."""

from __future__ import annotations

from typing import Any

from danlu.report.runs import Run
from danlu.report.scores import Table
from danlu.report.words import Language, number, percent, say

COLOURS = {"system": 5, "user": 1, "assistant": 0, "tool": 3, "none": 6}


def inspections(run: Run, language: Language) -> list[dict[str, Any]]:
    """For each packing stage: shares of all tokens by role, and a table of what is in the loss."""
    found = []
    for stage in run.stages:
        packed = stage.manifest.get("train", {})
        roles, in_loss = packed.get("tokens_by_role"), packed.get("tokens_in_loss_by_role", {})
        if not roles:
            continue
        total, whole = sum(roles.values()), sum(in_loss.values())
        names = {role: say("role_text" if len(roles) == 1 else f"role_{role}", language) for role in roles}
        spoken = {role: tokens for role, tokens in roles.items() if tokens}
        shares = [
            {
                "name": names[role],
                "colour": COLOURS.get(role, 7),
                "width": round(100 * tokens / total, 2),
                "percent": percent(tokens / total),
            }
            for role, tokens in spoken.items()
        ]
        rows = [_row(names[role], tokens, in_loss.get(role, 0)) for role, tokens in spoken.items()]
        head = [say(key, language) for key in ("role", "tokens", "in_loss", "share")]
        table = Table(stage.name, head, [*rows, _row(say("all", language), total, whole)])
        found.append({"name": stage.name, "shares": shares, "table": table})
    return found


def _row(name: str, tokens: int, in_loss: int) -> list[Any]:
    return [name, number(tokens), number(in_loss), percent(in_loss / tokens)]
