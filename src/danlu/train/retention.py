"""Which checkpoints stay, and how others go without ever being seen half-deleted."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

from danlu.ledger.checkpoints import FOLDER, has_state, lacking, list_checkpoints
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
    """The whole checkpoints whose held-out loss was measured, the lowest first; of equal ones the oldest."""
    manifests = {path: read_manifest(path) or {} for path in list_checkpoints(out) if not lacking(path)}
    losses = {path: float(of["held_out_loss"]) for path, of in manifests.items() if of.get("held_out_loss") is not None}
    return sorted((path for path in losses if math.isfinite(losses[path])), key=lambda path: losses[path])


def delete(path: Path) -> None:
    """Removes a checkpoint: it stops being one at once, then its files go."""
    going = path.with_name(f".{path.name}{_GOING}")
    path.rename(going)
    shutil.rmtree(going)


def sweep(out: Path) -> None:
    """Removes what a killed run left half-written or half-deleted beside its checkpoints.

    Those from which no run can go on, as files are gone or cut short, move to `out`/abandoned, which is told.
    """
    for rest in (out / FOLDER).glob(".step-*"):
        shutil.rmtree(rest)
    for path in list_checkpoints(out):
        if (gone := lacking(path)) and not has_state(path):
            print(f"passed over {path}, which lacks {gone[0]}: now in {_abandon(path)}", file=sys.stderr, flush=True)


def set_aside(out: Path, step: int) -> list[Path]:
    """Moves checkpoints after `step` to `out`/abandoned, so that none of a line that was left is taken for the
    newest.
    """
    later = [path for path in list_checkpoints(out) if int(path.name.removeprefix("step-")) > step]
    return [_abandon(path) for path in later]


def most_at_once(settings: SaveSettings, steps: int, epochs: float) -> int:
    """The most checkpoints that a run has on disk at one time, the one being written included."""
    saves = 1 + (math.ceil(steps / settings.every) if settings.every else 0)
    kept = settings.keep_last + settings.keep_best + 1
    return min(saves, kept) + (math.floor(epochs) if settings.every_epoch else 0)


def _abandon(path: Path) -> Path:
    folder = path.parents[1] / "abandoned"
    folder.mkdir(exist_ok=True)
    number = sum(1 for _ in folder.glob(f"{path.name}*"))
    return path.rename(folder / (f"{path.name}-{number}" if number else path.name))
