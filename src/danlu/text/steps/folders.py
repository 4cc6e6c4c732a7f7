"""Tokenizers and models that steps name, and the files on which their scores depend."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from danlu.ledger.checkpoints import resolve_checkpoint

TOKENIZER: str | None = Field(
    default=None,
    description="Folder of a tokenizer, or `tokenizer:` for the one that the recipe trains; null: the recipe's own, "
    "where that is loaded from a folder.",
)
_ABOUT = {"manifest.json", "stage.json", "README.md", "trainer_state.json"}  # they say when, not what


def tokenizer_files(path: str | None) -> list[str]:
    """The files of a tokenizer's folder, in their order; the path itself where that is none."""
    if path is None:
        return []
    return [file for file in _top(Path(path)) if not file.endswith(".safetensors")] or [path]


def model_files(path: str) -> list[str]:
    """The files of a model, weights included. Raises UserError where there is none."""
    return _top(resolve_checkpoint(Path(path)))


def _top(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.is_file() and file.name not in _ABOUT)
    return sorted(str(file) for file in files if file.suffix in (".json", ".model", ".txt", ".jinja", ".safetensors"))
