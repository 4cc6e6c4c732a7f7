"""manifest.json: what went into a step, what came out, and when."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from danlu.ledger.files import atomic_file, read_json

NAME = "manifest.json"


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
