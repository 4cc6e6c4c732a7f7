"""What cleaning did, by source and by step: manifest.json, and statistics.json with every histogram."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.ledger.counts import Counts
from danlu.ledger.files import atomic_file
from danlu.ledger.manifest import write_manifest
from danlu.text.cleaning.columns import read_meta
from danlu.text.cleaning.line import Line, Progress
from danlu.text.cleaning.sources import Survey
from danlu.text.cleaning.tally import Tally
from danlu.text.settings import CleanSettings

STATISTICS = "statistics.json"


def write_results(
    out: Path, settings: CleanSettings, survey: Survey, lines: list[Line], written: dict[str, dict[str, Any]]
) -> None:
    """Writes both files; `written` says by part's name what it keeps."""
    sources: dict[str, dict[str, Any]] = {}
    for line in lines:
        for name, parts in _by_source(line).items():
            sources[name] = _entry(line, parts, written)
    with atomic_file(out / STATISTICS) as handle:
        json.dump({name: entry["steps"] for name, entry in sources.items()}, handle, ensure_ascii=False)
    brief = {
        name: {**entry, "steps": [{k: v for k, v in step.items() if k != "columns"} for step in entry["steps"]]}
        for name, entry in sources.items()
    }
    write_manifest(
        out,
        {
            "stage": "clean",
            "settings": settings.model_dump(),
            "inputs": survey.inputs,
            "parts": [
                {
                    "file": f"{part.name}.jsonl.zst",
                    "kind": part.kind,
                    "records": written[part.name]["kept"],
                    "sha256": written[part.name]["sha256"],
                }
                for part in survey.parts
            ],
            "sources": brief,
            "statistics": STATISTICS,
            "left_out": survey.left_out.as_dict(),
        },
    )


def _by_source(line: Line) -> dict[str, list[Progress]]:
    found: dict[str, list[Progress]] = {}
    for progress in line.parts:
        found.setdefault(progress.part.name.rpartition("/")[0], []).append(progress)
    return found


def _entry(line: Line, parts: list[Progress], written: dict[str, dict[str, Any]]) -> dict[str, Any]:
    read, dropped = Counts(), Counts()
    tallies = [Tally() for _ in line.step_of]
    languages: dict[str, int] = {}
    for progress in parts:
        read.merge(Counts.from_dict(read_meta(progress.part.records)["counts"]))
        place = 0
        for file in progress.verdicts:
            meta = read_meta(file)
            for tally in meta["turns"]:
                tallies[place].merge(tally)
                place += 1
        for language, (rows, _) in meta["languages"].items():
            languages[language] = languages.get(language, 0) + rows
    steps = []
    for turn, number, tally in zip(parts[0].turns, line.step_of, tallies, strict=True):
        steps.append({"step": turn.step.op, "number": number, "edits": turn.edits, **tally.as_dict()})
        why = tally.dropped.as_dict()
        dropped.merge(Counts.from_dict({f"{turn.step.op}: {reason}": entry for reason, entry in why.items()}))
    return {
        "kept": sum(written[progress.part.name]["kept"] for progress in parts),
        "text_bytes": sum(written[progress.part.name]["text_bytes"] for progress in parts),
        "read": read.as_dict(),
        "dropped": dropped.as_dict(),
        "languages": {language: rows for language, rows in sorted(languages.items()) if rows},
        "steps": steps,
    }
