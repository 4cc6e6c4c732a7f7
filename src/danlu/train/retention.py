"""Which checkpoints stay, and how others go without ever being seen half-deleted."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from danlu.ledger.checkpoints import FOLDER, list_checkpoints
from danlu.ledger.manifest import read_manifest
from danlu.train.settings import SaveSettings

_GOING = ".deleted"


def prune(out: Path, settings: SaveSettings) -> None:
    """Deletes the checkpoints that are neither among the newest, nor among the best, nor marked to be kept."""
    checkpoints = list_checkpoints(out)
    manifests = {path: read_manifest(path) or {} for path in checkpoints}
    best = best_first(out)[: settings.keep_best]
    stay = {*checkpoints[-settings.keep_last :], *best, *(path for path in checkpoints if manifests[path].get("keep"))}
    for path in checkpoints:
        if path not in stay:
            delete(path)


def best_first(out: Path) -> list[Path]:
    """The checkpoints, that of the lowest held-out loss first; of equal ones the oldest."""
    losses = {path: _held_out(read_manifest(path) or {}) for path in list_checkpoints(out)}
    return sorted(losses, key=lambda path: losses[path])


def delete(path: Path) -> None:
    """Removes a checkpoint: it stops being one at once, then its files go."""
    going = path.with_name(f".{path.name}{_GOING}")
    path.rename(going)
    shutil.rmtree(going)


def sweep(out: Path) -> None:
    """Removes what a killed run left half-written or half-deleted beside its checkpoints."""
    for rest in (out / FOLDER).glob(".step-*"):
        shutil.rmtree(rest)


def set_aside(out: Path, step: int) -> list[Path]:
    """Moves checkpoints after `step` to `out`/abandoned, so that none of a line that was left is taken for the
    newest.
    """
    moved = []
    for path in list_checkpoints(out):
        if int(path.name.removeprefix("step-")) > step:
            folder = out / "abandoned"
            folder.mkdir(exist_ok=True)
            number = sum(1 for _ in folder.glob(f"{path.name}*"))
            moved.append(path.rename(folder / (f"{path.name}-{number}" if number else path.name)))
    return moved


def most_at_once(settings: SaveSettings, steps: int, epochs: float) -> int:
    """The most checkpoints that a run has on disk at one time, the one being written included."""
    saves = 1 + (math.ceil(steps / settings.every) if settings.every else 0)
    kept = settings.keep_last + settings.keep_best + 1
    return min(saves, kept) + (math.floor(epochs) if settings.every_epoch else 0)


def _held_out(manifest: dict[str, Any]) -> float:
    loss = manifest.get("held_out_loss")
    return math.inf if loss is None else float(loss)
