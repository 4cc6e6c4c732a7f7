"""How fast a stage was trained, where its time went, and what to turn next."""

from __future__ import annotations

from typing import Any

from danlu.report.scores import Table
from danlu.report.words import Language, number, percent, say

PARTS = ("data", "forward", "backward", "communication", "optimizer", "saving")
"""Of a step, in the order of the columns."""


def speed_table(manifest: dict[str, Any], language: Language) -> Table | None:
    """One row, from the figures that a finished run keeps; None where it has none."""
    speed = manifest.get("speed")
    if not speed:
        return None
    shares = {name: speed[name] for name in ("mfu_documents", "mfu", "ceiling_share") if speed[name] is not None}
    shares |= {f"time_{name}": speed["shares"][name] for name in PARTS}
    head = [say(name, language) for name in ("tokens_per_second", "useful_share", *shares)]
    row = [number(speed["tokens_per_second"]), percent(speed["useful_share"]), *map(percent, shares.values())]
    turn = speed.get("next")
    note = (
        f"{say('turn_next', language)}{turn['setting']} · {turn[language]}" if turn else say("nothing_next", language)
    )
    return Table(say("speed", language), head, [row], note=note, names=0)
