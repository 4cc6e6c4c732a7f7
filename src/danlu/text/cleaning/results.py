"""What cleaning did, by source and by step: checked, then written to manifest.json and, with histograms, beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.ledger.manifest import write_manifest
from danlu.text.cleaning.columns import read_meta
from danlu.text.cleaning.line import Line, Progress
from danlu.text.cleaning.parts import Part
from danlu.text.cleaning.sources import Survey
from danlu.text.cleaning.tally import Tally
from danlu.text.settings import CleanSettings

STATISTICS = "statistics.json"


def check_read(settings: CleanSettings, survey: Survey) -> None:
    """Raises UserError for a source with too many bad rows, and where no source holds a record."""
    total = Counts()
    for number, source in enumerate(settings.sources):
        counts = _counts([part for part in survey.parts if part.source_number == number])
        total.merge(counts)
        bad = {reason: entry for reason, entry in counts.as_dict().items() if reason.startswith("bad: ")}
        lost = sum(entry["count"] for entry in bad.values())
        if lost > source.max_bad_share * counts["rows"]:
            shown = "; ".join(f"{entry['count']} {reason[5:]}: {entry['examples'][0]}" for reason, entry in bad.items())
            raise UserError(
                f"{lost} of {counts['rows']} rows cannot be used. {shown}",
                where=source.path,
                do=f"mend the source, name its adapter, or raise max_bad_share (now {source.max_bad_share:g})",
            )
    if total["records"] == 0:
        raise UserError(
            f"the sources hold no record: {_listed(total)}", do="look at their paths and their conditions (`where`)"
        )


def results_of(lines: list[Line], written: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By source what was read, kept and dropped, and what each step did; `written` says what each part keeps."""
    sources: dict[str, dict[str, Any]] = {}
    for line in lines:
        by_source: dict[str, list[Progress]] = {}
        for progress in line.parts:
            by_source.setdefault(progress.part.name.rpartition("/")[0], []).append(progress)
        sources |= {name: _of_source(line, parts, written) for name, parts in by_source.items()}
    return sources


def write_results(
    out: Path,
    settings: CleanSettings,
    survey: Survey,
    sources: dict[str, dict[str, Any]],
    written: dict[str, dict[str, Any]],
) -> None:
    """Writes the statistics, and last the manifest. Raises UserError instead of a manifest where nothing is kept."""
    with atomic_file(out / STATISTICS) as handle:
        json.dump({name: entry["steps"] for name, entry in sources.items()}, handle, ensure_ascii=False)
    if not any(entry["kept"] for entry in sources.values()):
        dropped = Counts()
        for entry in sources.values():
            dropped.merge(Counts.from_dict(entry["dropped"]))
        raise UserError(
            f"every record was dropped: {_listed(dropped)}",
            where=str(out / "dropped"),
            do="look at some of them there, and move the thresholds: nothing is measured again",
        )
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
            "sources": {
                name: {**entry, "steps": [_short(step) for step in entry["steps"]]} for name, entry in sources.items()
            },
            "statistics": STATISTICS,
            "left_out": survey.left_out.as_dict(),
        },
    )


def _short(step: dict[str, Any]) -> dict[str, Any]:
    """What the manifest tells of a step; histograms and languages stand in the statistics."""
    return {name: value for name, value in step.items() if name not in ("columns", "languages")}


def _counts(parts: list[Part]) -> Counts:
    counts = Counts()
    for part in parts:
        counts.merge(Counts.from_dict(read_meta(part.records)["counts"]))
    return counts


def _listed(counts: Counts) -> str:
    return "; ".join(f"{entry['count']} {reason}" for reason, entry in counts.as_dict().items())


def _of_source(line: Line, parts: list[Progress], written: dict[str, dict[str, Any]]) -> dict[str, Any]:
    tallies: list[dict[str, Tally]] = [{} for _ in line.step_of]
    languages: dict[str, int] = {}
    for progress in parts:
        metas = [read_meta(file) for file in progress.verdicts]
        for by_language, found in zip(tallies, (turn for meta in metas for turn in meta["turns"]), strict=True):
            for language, tally in found.items():
                by_language.setdefault(language, Tally()).merge(tally)
        for language, (rows, _) in metas[-1]["languages"].items():
            languages[language] = languages.get(language, 0) + rows
    steps, dropped = [], Counts()
    for place, (number, by_language) in enumerate(zip(line.step_of, tallies, strict=True)):
        parted = {language: tally.as_dict() for language, tally in sorted(by_language.items())}
        tally = Tally()
        for one in parted.values():
            tally.merge(one)
        turn = parts[0].turns[place]
        files = [progress.turns[place].columns for progress in parts]
        seconds = sum(read_meta(file)["seconds"] for file in files if file)
        about = {"step": turn.step.called, "number": number, "edits": turn.edits, "seconds": round(seconds, 3)}
        steps.append({**about, **tally.as_dict(), "languages": parted})
        why = tally.dropped.as_dict()
        dropped.merge(Counts.from_dict({f"{turn.step.called}: {reason}": entry for reason, entry in why.items()}))
    return {
        "kept": sum(written[progress.part.name]["kept"] for progress in parts),
        "text_bytes": sum(written[progress.part.name]["text_bytes"] for progress in parts),
        "read": _counts([progress.part for progress in parts]).as_dict(),
        "dropped": dropped.as_dict(),
        "languages": {language: rows for language, rows in sorted(languages.items()) if rows},
        "steps": steps,
    }
