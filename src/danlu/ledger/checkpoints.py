"""Finding a model on disk: a Hugging Face folder, a checkpoint, or the newest checkpoint of a run."""

from __future__ import annotations

from pathlib import Path

from danlu.ledger.errors import UserError

FOLDER = "checkpoints"


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies in a training stage's folder."""
    return out / FOLDER / f"step-{step:09d}"


def list_checkpoints(out: Path) -> list[Path]:
    """A training stage's checkpoints, the oldest first."""
    return sorted(path for path in (out / FOLDER).glob("step-*") if path.is_dir())


def resolve_checkpoint(path: Path) -> Path:
    """The folder with config.json that `path` means: itself, or the newest checkpoint of a stage or run.

    Raises UserError where there is none.
    """
    if (path / "config.json").is_file():
        return path
    for stage in (path, path / "dpo", path / "sft", path / "pretrain"):
        found = list_checkpoints(stage)
        if found:
            return found[-1]
    if not path.exists():
        raise UserError("no such file or folder", where=str(path), do="name a model folder, a checkpoint or a run")
    raise UserError(
        "no model here: neither config.json nor checkpoints",
        where=str(path),
        do="name a Hugging Face folder, a checkpoint (…/checkpoints/step-…), a stage or a run that has trained",
    )
