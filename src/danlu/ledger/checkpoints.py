"""Finding a model on disk: a Hugging Face folder, a checkpoint, or the newest checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from danlu.ledger.errors import UserError
from danlu.ledger.manifest import NAME, read_manifest

FOLDER = "checkpoints"
STATE = "state"
"""In a checkpoint: the folder of that from which a run goes on."""
EPOCH = "@epoch="
STAGES = ("kto", "simpo", "dpo", "orpo", "sft", "pretrain")
"""Where a run's model is, the last first; a reward model is named by its own folder."""


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies in a training stage's folder."""
    return out / FOLDER / f"step-{step:09d}"


def list_checkpoints(out: Path) -> list[Path]:
    """A training stage's checkpoints, the oldest first."""
    return sorted(path for path in (out / FOLDER).glob("step-*") if path.is_dir())


def lacking(checkpoint: Path) -> list[str]:
    """The files of its manifest that a checkpoint does not have in their size; no content is read."""
    manifest = read_manifest(checkpoint)
    if manifest is None:
        return [NAME]
    sizes = {name: written["bytes"] for name, written in manifest.get("files", {}).items()}
    return [name for name, size in sizes.items() if not _has(checkpoint / name, size)]


def has_state(checkpoint: Path) -> bool:
    """Whether all is there from which a run goes on."""
    return (checkpoint / STATE).is_dir() and not any(
        name == NAME or name.startswith(f"{STATE}/") for name in lacking(checkpoint)
    )


def lacking_weights(out: Path, language: Literal["en", "zh"] = "en") -> str:
    """In words what is gone of the checkpoints that a finished training stage is taken by; empty when all is there."""
    found, chinese = list_checkpoints(out), language == "zh"
    if not found:
        return "它的检查点不见了" if chinese else "its checkpoints are gone"
    for path in dict.fromkeys([_ended_with(out, found), found[-1]]):
        if gone := lacking(path):
            more = (f" 等 {len(gone)} 个文件" if chinese else f" and {len(gone) - 1} more files") if gone[1:] else ""
            return f"{path.name} {'缺少' if chinese else 'lacks'} {gone[0]}{more}"
    return ""


def resolve_checkpoint(path: Path) -> Path:
    """The folder with config.json, or with an adapter's, that `path` means: itself, or the newest checkpoint of a stage
    or run, the best of one that ended with `save.load_best`.

    With `@epoch=2` behind a stage's folder: the checkpoint at the end of that epoch.
    Raises UserError where there is none.
    """
    folder, at, epoch = str(path).partition(EPOCH)
    if at:
        return _end_of_epoch(Path(folder), epoch)
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return path
    for stage in (path, *(path / name for name in STAGES)):
        if found := list_checkpoints(stage):
            return _ended_with(stage, found)
    if not path.exists():
        raise UserError("no such file or folder", where=str(path), do="name a model folder, a checkpoint or a run")
    raise UserError(
        "no model here: neither config.json nor checkpoints",
        where=str(path),
        do="name a Hugging Face folder, a checkpoint (…/checkpoints/step-…), a stage or a run that has trained",
    )


def _ended_with(stage: Path, found: list[Path]) -> Path:
    """The newest checkpoint; where the run has ended at it and named its best, that one."""
    ended = read_manifest(stage) or {}
    best = checkpoint_folder(stage, 0).with_name(str(ended.get("best")))
    return best if best in found and ended.get("checkpoint") == found[-1].name else found[-1]


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _end_of_epoch(stage: Path, epoch: str) -> Path:
    """The first checkpoint of a stage at or after the end of an epoch, and before the end of the next."""
    known = [((read_manifest(path) or {}).get("epoch", 0.0), path) for path in list_checkpoints(stage)]
    if epoch.isdigit():
        for reached, path in known:
            if int(epoch) <= reached < int(epoch) + 1:
                return path
    there = ", ".join(f"{reached:g}" for reached, _ in known) or "none"
    raise UserError(
        f"no checkpoint from the end of epoch {epoch}: those here are from epochs {there}",
        where=str(stage),
        do="train it with save.every_epoch: true, or name another checkpoint",
    )
