"""What a reward model made of held-out pairs: accuracy by source and language, and its margins drawn."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from danlu.report.words import Language, percent, say

WIDTH, HEIGHT = 180, 34


def preference_rows(model: str, task: dict[str, Any], language: Language) -> list[list[Any]]:
    """A row for all pairs, each language and, where there are several, each source."""
    parts = [(say("all", language), task)]
    parts += [(say(name, language), part) for name, part in task["language"].items()]
    parts += list(task["source"].items()) if len(task["source"]) > 1 else []
    return [
        [
            model,
            name,
            f"{percent(part['accuracy'])} ± {100 * part['stderr']:.1f}",
            f"{part['margin']:+.3f}",
            f"{part['margin_sd']:.3f}",
            f"{part['n']:,}",
            histogram(part["histogram"]) if "histogram" in part else "",
        ]
        for name, part in parts
        if part["n"]
    ]


def histogram(margins: dict[str, list[float]]) -> Markup:
    """Counts as bars, those of pairs that were taken the wrong way round paler."""
    counts, edges = margins["counts"], margins["edges"]
    most, wide = max(counts) or 1, WIDTH / len(counts)
    bars = Markup("").join(
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="var(--c0)" opacity="{}"/>').format(
            wide * place, HEIGHT * (1 - count / most), wide - 1, HEIGHT * count / most, 1 if low >= -1e-12 else 0.4
        )
        for place, (count, low) in enumerate(zip(counts, edges, strict=False))
    )
    middle = Markup('<line x1="{0}" x2="{0}" y1="0" y2="{1}" stroke="var(--ink)" opacity="0.5"/>').format(
        WIDTH / 2, HEIGHT
    )
    ends = Markup("<small>{:.2g}</small> {} <small>{:.2g}</small>")
    drawn = Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img">{2}{3}</svg>').format(
        WIDTH, HEIGHT, bars, middle
    )
    return ends.format(edges[0], drawn, edges[-1])


HEAD = ("model", "set", "accuracy", "rewards_margin", "spread", "pairs", "margins")
