"""The folder that the pack stage leaves: for each split and source a manifest that names a stored token set."""

from __future__ import annotations

from pathlib import Path

from danlu.ledger.manifest import NAME, read_manifest

TOKEN_SETS = "token-sets"
"""Where token sets are stored when nothing else is said."""


def token_sets_there(packed: Path) -> bool:
    """Whether all token sets that a finished pack stage names are where it says."""
    indices = [path.parent for path in packed.glob(f"*/*/{NAME}")]
    return all((index / (read_manifest(index) or {}).get("set", ".") / NAME).is_file() for index in indices)
