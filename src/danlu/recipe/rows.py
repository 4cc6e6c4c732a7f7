"""What became of the rows that a stage read: a line for each source, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from danlu.ledger.manifest import NAME, read_manifest
from danlu.report.reasons import reason_in

READERS = ("clean", "pack")
SHOWN = 4  # reasons of a source; the manifest has all of them
LOST = ("bad: ", "left out: ", "not encoded: ", "dropped: ")
"""What a reason begins with that cost the record; others tell what was mended or cut."""

WORDS = {
    "en": {
        "source": "  {name}: {rows:,} rows read, {kept:,} kept",
        "none": " and none held out (held_out: {share:g})",
        "why": "; ",
        "and": ", ",
        "reason": "{count:,} {reason}",
        "others": "{count:,} for {reasons} other reasons ({file})",
    },
    "zh": {
        "source": "  {name}：读 {rows:,} 行，留 {kept:,} 条",
        "none": "，没有一条留出（held_out：{share:g}）",
        "why": "；",
        "and": "，",
        "reason": "{reason} {count:,} 条",
        "others": "另 {reasons} 种原因共 {count:,} 条（见 {file}）",
    },
}


def rows_read(folder: Path, language: Literal["en", "zh"]) -> Iterator[str]:
    """For each source of the stage in `folder`, if it is one that reads rows, how many it had, how many are kept and
    why the others are not, the most frequent reason first, and where none was held out though some should be; then how
    many files were not read."""
    manifest = read_manifest(folder) or {}
    if manifest.get("stage") not in READERS:
        return
    words = WORDS[language]
    for name, source in manifest["sources"].items():
        lost, kept = _cleaned(source) if manifest["stage"] == "clean" else _packed(source)
        rows = source.get("read", source.get("counts"))["rows"]["count"]
        share = manifest["settings"]["held_out"] if manifest["stage"] == "pack" else 0
        none = words["none"].format(share=share) if share and not source["held_out"]["examples"] else ""
        why = words["why"] + _listed(lost, folder, language) if lost else ""
        yield words["source"].format(name=name, rows=rows, kept=kept) + none + why
    if files := _counted(manifest["left_out"]):
        yield f"  {_listed(files, folder, language)}"


def _cleaned(source: dict[str, Any]) -> tuple[Counter[str], int]:
    dropped = Counter({reason: entry["count"] for reason, entry in source["dropped"].items()})
    return _counted(source["read"]) + dropped, source["kept"]


def _packed(source: dict[str, Any]) -> tuple[Counter[str], int]:
    splits = source["train"], source["held_out"]
    dropped = sum((_lost(split["cuts"]) for split in splits), Counter[str]())
    return _counted(source["counts"]) + dropped, sum(split["examples"] for split in splits) - dropped.total()


def _counted(counts: dict[str, dict[str, Any]]) -> Counter[str]:
    return _lost({reason: entry["count"] for reason, entry in counts.items()})


def _lost(counts: dict[str, int]) -> Counter[str]:
    return Counter({reason: count for reason, count in counts.items() if reason.startswith(LOST)})


def _listed(lost: Counter[str], folder: Path, language: Literal["en", "zh"]) -> str:
    words, ordered = WORDS[language], lost.most_common()
    told = [
        words["reason"].format(count=count, reason=reason_in(reason, language)) for reason, count in ordered[:SHOWN]
    ]
    if others := ordered[SHOWN:]:
        count = sum(count for _, count in others)
        told.append(words["others"].format(count=count, reasons=len(others), file=folder / NAME))
    return words["and"].join(told)
