"""Ways of doing one thing, each in a process of its own, one after the other, and the table of what they reached."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from danlu.ledger.parent import end_with

PEAK = 989e12
"""Dense bf16 peak of H100, H200 and H800 in FLOP/s."""

Column = tuple[str, str, str]
"""Title, key, format; the format `x` means the ratio of the key to the best peer's."""


def parser(doc: str | None, ways: Iterable[str]) -> argparse.ArgumentParser:
    """The options that every benchmark has; `--tiny --device cpu` runs the same code in minutes on one core."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("ways", nargs="*", default=list(ways), metavar="WAY", help=f"of: {'; '.join(ways)}")
    made.add_argument("--json", type=Path, help="where the figures are written")
    made.add_argument("--rounds", type=int, default=1, help="how often all ways are run in turn; medians are shown")
    made.add_argument("--device", default="cuda")
    made.add_argument("--tiny", action="store_true", help="a tiny shape, to see that all works")
    made.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return made


def run(
    given: argparse.Namespace, measure: Callable[[str, argparse.Namespace], dict[str, Any]]
) -> list[dict[str, Any]]:
    """What `measure` gives for each way, as medians over rounds; in a process of one way it prints that and ends."""
    if given.one:
        end_with(os.getppid())  # or it would take its share of the machine from what is measured next
        print(json.dumps({"way": given.ways[0], **measure(given.ways[0], given)}))
        sys.exit()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in given.ways}
    for _ in range(given.rounds):
        for way in given.ways:
            done = subprocess.run(
                [sys.executable, sys.argv[0], way, "--one", *_options(given)], capture_output=True, text=True
            )
            if done.returncode:
                told = [line for line in done.stderr.strip().splitlines() if line.strip()]
                print(f"{way}: failed: {' | '.join(told[-3:])[-600:]}", flush=True)
                continue
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{way}: {json.dumps(_short(found[way][-1]), ensure_ascii=False)}", flush=True)
    return [_median(rows) for rows in found.values() if rows]


def show(given: argparse.Namespace, found: list[dict[str, Any]], columns: Iterable[Column], **more: Any) -> None:
    """Prints the table and writes the JSON. Ratios are against the best way that is not ours."""
    print(machine(given.device))
    columns = list(columns)
    width = max([len(row["way"]) for row in found] + [4])
    widths = [max(len(title), 7) for title, _, _ in columns]
    print(" " * width + "".join(f"  {title:>{size}}" for (title, _, _), size in zip(columns, widths, strict=True)))
    for row in found:
        cells = [_cell(row, key, form, found) for _, key, form in columns]
        print(f"{row['way']:{width}}" + "".join(f"  {cell:>{size}}" for cell, size in zip(cells, widths, strict=True)))
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(given.device), **more, "ways": found}, indent=1))


def machine(device: str) -> str:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def is_ours(way: str) -> bool:
    return way.startswith("danlu")


def _cell(row: Mapping[str, Any], key: str, form: str, found: list[dict[str, Any]]) -> str:
    value = row.get(key)
    if form != "x":
        return "-" if value is None else f"{value:{form}}"
    best = max((other[key] for other in found if not is_ours(other["way"]) and other.get(key)), default=None)
    return f"{value / best:.2f}" if value and best else "-"


def _options(given: argparse.Namespace) -> list[str]:
    options = []
    for name, value in vars(given).items():
        if name in ("ways", "json", "rounds", "one") or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        each = value if isinstance(value, list) else [value]
        options += [flag] if value is True else [f"{flag}={one}" for one in each]
    return options


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in row.items()
        if not isinstance(value, list | dict)
    }


def _median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = (key for key, value in rows[0].items() if isinstance(value, int | float) and not isinstance(value, bool))
    return {**rows[0], **{key: statistics.median(row[key] for row in rows) for key in numbers}}
