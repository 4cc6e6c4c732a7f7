"""Writes the world to files: documents, conversations, preference pairs and questions."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from danlu.ledger.files import atomic_folder
from danlu.ledger.manifest import write_manifest
from danlu.text.records import Record
from danlu.text.sample.conversations import make_conversations, make_preferences, make_questions
from danlu.text.sample.documents import make_documents
from danlu.text.sample.lexicon import LANGUAGES, Language
from danlu.text.sample.settings import SampleSettings
from danlu.text.sample.world import World, make_world

_ROWS_A_FILE = 5000
_MAKERS: dict[str, Callable[[SampleSettings, World, Language], Iterable[Record]]] = {
    "documents": make_documents,
    "conversations": make_conversations,
    "preferences": make_preferences,
}


def sample(settings: SampleSettings, out: Path) -> None:
    """Writes the world of `settings` to the folder `out`, whole or not at all; equal settings write equal texts.

    `out` gets documents/, conversations/ and preferences/ with {zh,en}-00000.jsonl (rows of `to_row()`), questions/
    with held_out.jsonl and seen.jsonl (`id`, `question`, `answer`: the accepted strings, `kind`: relation or sum,
    `language`), and manifest.json with the settings and counts. An older `out` is replaced.
    """
    world = make_world(settings)
    counts: Counter[str] = Counter()
    with atomic_folder(out, replace=True) as folder:
        for (kind, make), language in itertools.product(_MAKERS.items(), LANGUAGES):
            rows = [record.to_row() for record in make(settings, world, language)]
            for start in range(0, len(rows), _ROWS_A_FILE):
                name = f"{language}-{start // _ROWS_A_FILE:05d}.jsonl"
                _write(folder / kind / name, rows[start : start + _ROWS_A_FILE])
            for row in rows:
                counts.update(_count(row))
        for kind in ("held_out", "seen"):
            questions = [row for language in LANGUAGES for row in make_questions(settings, world, language, kind)]
            _write(folder / "questions" / f"{kind}.jsonl", questions)
            counts[f"questions/{kind}"] = len(questions)
        write_manifest(folder, {"stage": "sample", "settings": settings.model_dump(), "counts": counts})


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _count(row: dict[str, Any]) -> Counter[str]:
    language = row["meta"]["language"]
    counts = Counter({f"{row['kind']}s/{language}": 1})
    if row["kind"] == "conversation":
        counts[f"answers/{language}"] = sum(message["role"] == "assistant" for message in row["messages"])
        counts[f"looping answers/{language}"] = int(row["meta"]["loops"])
    return counts
