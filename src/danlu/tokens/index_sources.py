"""What a run's index says of stored token sets: how cutting changes them, and how a curriculum orders them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.tasks import Task, Workers
from danlu.tokens.curriculum import bands, score_column
from danlu.tokens.index_tasks import count_cuts, grade, sample_scores
from danlu.tokens.order_settings import CurriculumSettings
from danlu.tokens.settings import DataSettings
from danlu.tokens.shards import DOCUMENTS, TokenSet

SAMPLE = 1 << 16
"""Scores of a source from which its quantiles are taken."""
Sets = Mapping[tuple[str, str], TokenSet]
"""By split and source."""


def count_all_cuts(
    sets: Sets, settings: DataSettings, unit: str, workers: Workers, work: Path
) -> dict[tuple[str, str], dict[str, int]]:
    """What cutting to the length will do to each set, by reason; documents of plain text are never cut."""
    if unit in ("window", "document"):
        return {name: {} for name in sets}
    how = {
        "each": DOCUMENTS[unit],
        "length": settings.length,
        "overlong": settings.overlong,
        "answer_budget": settings.answer_budget or settings.length // 2,
        "oldest_turns": settings.oldest_turns,
    }
    tasks, owners = [], []
    for owner, token_set in sets.items():
        for path in _shards(token_set):
            arguments = {"shard": str(path), "spelling": str(token_set.spelling_file), **how}
            tasks.append(Task(f"cuts {path} {list(how.values())}", count_cuts, arguments, [path]))
            owners.append(owner)
    found: dict[tuple[str, str], Counter[str]] = {owner: Counter() for owner in sets}
    for owner, reasons in zip(owners, workers.run(tasks, work / "index", "pack: cuts"), strict=True):
        found[owner].update(reasons)
    return {owner: dict(reasons) for owner, reasons in found.items()}


def grade_sources(
    sets: Mapping[str, TokenSet], curriculum: CurriculumSettings, unit: str, workers: Workers, work: Path
) -> dict[str, dict[str, Any]]:
    """For each source with scores what its index says of the curriculum; those without come in an even order.

    Raises UserError where no source has such a score.
    """
    names = sorted({name for token_set in sets.values() for name in token_set.manifest["scores"]})
    score_column(curriculum.by, names)
    found = {}
    for name, token_set in sets.items():
        if token_set.shards and (curriculum.by not in names or curriculum.by in token_set.manifest["scores"]):
            found[name] = _graded(token_set, curriculum, unit, workers, work)
    return {name: graded for name, graded in found.items() if graded["scored"]}


def _graded(
    token_set: TokenSet, curriculum: CurriculumSettings, unit: str, workers: Workers, work: Path
) -> dict[str, Any]:
    how = {
        "each": DOCUMENTS[unit],
        "column": score_column(curriculum.by, token_set.manifest["scores"]),
        "high_first": curriculum.first == "high",
    }
    shards = _shards(token_set)

    def run(title: str, function: Any, **more: Any) -> list[Any]:
        asked = {**how, **more}
        tasks = [
            Task(f"{title} {path} {list(asked.values())}", function, {"shard": str(path), **asked}, [path])
            for path in shards
        ]
        return workers.run(tasks, work / "index", f"pack: {title}")

    samples = run("scores", sample_scores, most=max(64, SAMPLE // len(shards)))
    scored = sum(sample["scored"] for sample in samples)
    edges, opens = list[float](), [0.0]
    if scored:
        edges, opens = bands(curriculum, np.concatenate([sample["sample"] for sample in samples]))
    graded = run("bands", grade, edges=edges)
    return {
        "by": curriculum.by,
        "first": curriculum.first,
        "passes": curriculum.passes,
        "examples": sum(sample["examples"] for sample in samples),
        "scored": scored,
        "edges": edges,
        "opens": opens,
        "sizes": np.transpose(graded).tolist(),
    }


def _shards(token_set: TokenSet) -> list[Path]:
    return [token_set.folder / entry.file for entry in token_set.shards]
