"""manifest.json: what went into a step, what came out, and when; run.json: what the whole run is called."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from danlu.ledger.files import atomic_file, read_json

NAME = "manifest.json"
RUN = "run.json"


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes `content` with the time and versions added; a manifest is the last thing a step writes."""
    stamp = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "danlu": version("danlu"),
        "python": platform.python_version(),
    }
    with atomic_file(folder / NAME) as handle:
        json.dump({**content, **stamp}, handle, ensure_ascii=False, indent=1)
        handle.write("\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished step, or None where there is none.

    Raises UserError for one that is not JSON.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    return read_json(path)


def name_run(folder: Path, name: str) -> bool:
    """Writes down what the run in `folder` is called, and says whether it was called otherwise before."""
    if (folder / RUN).is_file() and run_name(folder) == name:
        return False
    with atomic_file(folder / RUN) as handle:
        json.dump({"name": name}, handle, ensure_ascii=False)
        handle.write("\n")
    return True


def run_name(folder: Path) -> str:
    """What the run in `folder` is called by its recipe; the folder's own name where no recipe made it.

    Raises UserError for a run.json that is not JSON.
    """
    path = folder / RUN
    named = read_json(path, do="delete this file, and run again").get("name") if path.is_file() else None
    return str(named or folder.resolve().name)
