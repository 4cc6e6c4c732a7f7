"""Peak memory of cleaning's processes: the same for a small corpus and a large one, plain and packed.

    python benchmarks/clean_memory.py [RESULT.json] [--sizes 0.2,4] [--data DATA] [--folder FOLDER]

The shared pretraining text is repeated up to each size (GB) as one plain .jsonl file and as one .jsonl.zst file, and
cleaned with steps of all sorts that need no model, two workers; decontamination looks for every set of DATA/eval. The
figure is the largest resident set of any worker and of the process that hands out the tasks; a page of a library that
processes share counts in each.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

import zstandard
from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings

LIMIT_MB = 400
STEPS: list[dict[str, Any]] = [
    {"op": "normalise"},
    {"op": "length", "min": 10},
    {"op": "language"},
    {"op": "characters"},
    {"op": "lines"},
    {"op": "words"},
    {"op": "repetition"},
    {"op": "privacy"},
    {"op": "exact_dedup"},
    {"op": "near_dedup"},
    {"op": "line_dedup"},
    {"op": "decontaminate"},
]


def steps(data: Path) -> list[dict[str, Any]]:
    """All steps, with the sets that decontamination looks for."""
    return [{**step, "tests": [str(data / "eval")]} if step["op"] == "decontaminate" else step for step in STEPS]


def rows(file: Path) -> Iterator[bytes]:
    with file.open("rb") as raw, io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw)) as lines:
        yield from lines


def corpus(data: Path, path: Path, size: int) -> None:
    """Whole lines of the shared text, one of each file in turn, over and over up to `size` bytes."""
    files = sorted((data / "pretrain").rglob("*.jsonl.zst"))

    def lines() -> Iterator[bytes]:
        written = 0
        for line in (line for _ in count() for turn in zip_longest(*map(rows, files)) for line in turn if line):
            written += len(line)
            if written > size:
                return
            yield line

    with path.open("wb") as handle:
        if path.suffix == ".zst":
            with zstandard.ZstdCompressor(1).stream_writer(handle, closefd=False) as packed:
                for line in lines():
                    packed.write(line)
        else:
            handle.writelines(lines())


def measured(path: Path, out: Path, data: Path) -> dict[str, float]:
    """Cleans in a process of its own and gives its figures."""
    start = time.monotonic()
    command = [sys.executable, __file__, "--clean", str(path), str(out), str(data)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    main, workers = map(int, answer.stdout.split())
    return {"main_mb": main / 1024, "worker_mb": workers / 1024, "seconds": time.monotonic() - start}


def clean_here(path: str, out: str, data: str) -> None:
    """What the process of its own does."""
    settings = {"sources": [{"path": path, "name": "repeated"}], "steps": steps(Path(data)), "workers": 2}
    clean(check(CleanSettings, settings), Path(out))
    print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def main() -> None:
    if sys.argv[1:2] == ["--clean"]:
        clean_here(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("--sizes", default="0.2,4")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--folder", type=Path, help="where the corpora are written, and removed again")
    given = parser.parse_args()
    table = Table("form", "GB", "worker MB", "handing out MB", "seconds", title=f"peak memory, at most {LIMIT_MB} MB")
    figures = {}
    for size in map(float, given.sizes.split(",")):
        for form in ("jsonl", "jsonl.zst"):
            folder = Path(tempfile.mkdtemp(dir=given.folder))
            try:
                corpus(given.data, folder / f"raw.{form}", int(size * 1e9))
                found = measured(folder / f"raw.{form}", folder / "out", given.data)
            finally:
                shutil.rmtree(folder)
            figures[f"{form} {size:g} GB"] = found
            table.add_row(form, f"{size:g}", *(f"{found[name]:.0f}" for name in ("worker_mb", "main_mb", "seconds")))
    Console().print(table)
    if given.result:
        given.result.write_text(json.dumps({"limit_mb": LIMIT_MB, "steps": STEPS, "figures": figures}, indent=1))
    if any(found[name] > LIMIT_MB for found in figures.values() for name in ("main_mb", "worker_mb")):
        sys.exit(f"more than {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
