"""Which test sets stand in the shared pretraining text: documents by set, and what it costs to know.

    python benchmarks/decontaminate.py [DATA] [RESULT.json]

Looks in all of DATA/pretrain/{zh,en} for every item of DATA/eval, twice: once for any 13 words (or Chinese characters)
in a row, as was done for GPT-3, and once with the step's defaults, which ask for a share of an item. The first counts
set phrases of laws and rows of numbers, too.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyarrow import parquet
from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings

LANGUAGES = ("zh", "en")
RULES: dict[str, dict[str, Any]] = {"any 13 in a row": {"evidence": 1, "share": {"max": 0}}, "defaults": {}}


def decontaminate(data: Path, rule: dict[str, Any]) -> dict[str, Any]:
    """Documents by language and set, those dropped, and CPU-seconds."""
    sources = [{"path": str(data / "pretrain" / language), "name": language} for language in LANGUAGES]
    step = {"op": "decontaminate", "tests": [str(data / "eval")], **rule}
    settings = check(CleanSettings, {"sources": sources, "steps": [step], "workers": 2})
    start = spent()
    with TemporaryDirectory() as folder:
        clean(settings, Path(folder))
        seconds = spent() - start
        manifest = json.loads((Path(folder) / "manifest.json").read_text("utf-8"))
        files = sorted(Path(folder).glob("findings/documents/decontaminate-*/findings-*"))
        rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
        tests = json.loads(parquet.read_schema(files[0]).metadata[b"danlu"])["tests"]
    beyond = [row for row in rows if step_drops(row, settings)]
    return {
        "seconds": seconds,
        "items": {reason: entry["count"] for reason, entry in tests.items()},
        "documents": {name: Counter(row["test"] for row in beyond)[name] for name in {row["test"] for row in beyond}},
        "dropped": {
            language: sum(entry["count"] for entry in manifest["sources"][f"documents/{language}"]["dropped"].values())
            for language in LANGUAGES
        },
    }


def step_drops(row: dict[str, Any], settings: CleanSettings) -> bool:
    return settings.steps[0].share.judge("share", row["share"]) is not None  # type: ignore[union-attr]


def spent() -> float:
    """CPU-seconds of this process and its workers."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    start = time.perf_counter()
    results = {name: decontaminate(data, rule) for name, rule in RULES.items()}
    table = Table("test set", *RULES)
    sets = Counter[str]()
    for found in results.values():
        sets.update(found["documents"])
    for name, _ in sets.most_common():
        table.add_row(name, *(str(found["documents"].get(name, 0)) for found in results.values()))
    for language in LANGUAGES:
        table.add_row(f"all, {language}", *(str(found["dropped"][language]) for found in results.values()))
    Console(width=110).print(table)
    print("documents by the set of the item that stands in them most;", results["defaults"]["items"])
    print(", ".join(f"{name}: {found['seconds']:.0f} CPU-seconds" for name, found in results.items()))
    print(f"{time.perf_counter() - start:.0f} s in all")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
