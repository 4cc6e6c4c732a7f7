"""From which checkpoint a run goes on, and whether it is of this run at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.checkpoints import has_state, lacking, list_checkpoints
from danlu.ledger.differences import differences
from danlu.ledger.errors import UserError
from danlu.train import retention
from danlu.train.checkpoint import read_trainer, verify

_ADVICE = {
    "model": "name a checkpoint of this shape, or give the recipe the checkpoint's shape",
    "tokenizer": "go back to the tokenizer of that run, or train into another folder (out=...)",
    "template": "go back to the chat template and system prompt of that run, or train into another folder (out=...)",
    "data": "restore the token sets, weights and seed of that run, or train into another folder (out=...)",
    "objective": "train another objective into another folder (out=...), from that checkpoint as `model: {from: ...}`",
}


@dataclass(frozen=True)
class Choice:
    """A checkpoint, what its trainer.json says, and why it was taken."""

    path: Path
    trainer: dict[str, Any]
    why: str
    lost: tuple[str, ...] = ()
    """Files beside the state that are gone, and that are written again from it."""


def choose(resume: str, out: Path) -> Choice | None:
    """The checkpoint that `resume` (never, auto, healthy or a folder) means; None to begin anew.

    Raises UserError for a folder without state, for `never` over existing checkpoints, and where none is healthy.
    """
    found = [path for path in reversed(list_checkpoints(out)) if has_state(path)]
    if resume not in ("never", "auto", "healthy"):
        newest = read_trainer(found[0]) if found else None
        if newest and newest["settings"]["resume"] == resume:
            return _own(found[0], f"where the run that began from {resume} stopped")
        path = Path(resume)
        if not path.is_dir():
            raise UserError(
                "no such folder",
                where=f"train.resume={resume}",
                do="set auto, healthy, never, or a checkpoint's folder",
            )
        return Choice(path, read_trainer(path), "as told")
    if resume == "never" and list_checkpoints(out):
        raise UserError(
            "there are checkpoints here already, and resume is never",
            where=str(out),
            do="set resume=auto to go on from them, choose another folder (out=...), or delete this one",
        )
    if not found:
        return None
    if resume == "auto":
        return _own(found[0], "the newest")
    passed_over: list[str] = []
    for path in found:
        trainer = read_trainer(path)
        health = trainer["health"]["record"]
        if health["healthy"]:
            why = "".join(f"\n  passed over {line}" for line in passed_over)
            return _own(path, f"the newest healthy one ({health['why']}){why}")
        passed_over.append(f"{path.name}: {health['why']}")
    raise UserError(
        "no checkpoint is healthy:\n  " + "\n  ".join(passed_over),
        where=str(out),
        do="name one (resume=PATH), or start anew into another folder (out=...)",
    )


def _own(path: Path, why: str) -> Choice:
    """A checkpoint of this run, whose weights may be gone."""
    return Choice(path, read_trainer(path), why, tuple(lacking(path)))


def check(choice: Choice, fingerprints: Mapping[str, str]) -> None:
    """Raises UserError where the checkpoint is damaged or is of another model, tokenizer, template, data or
    objective.
    """
    saved = choice.trainer["fingerprints"]
    for name, mine in fingerprints.items():
        if saved[name] != mine:
            raise UserError(f"this checkpoint is of another {name}", where=str(choice.path), do=_ADVICE[name])
    verify(choice.path, but=choice.lost)


def told(choice: Choice, settings: Mapping[str, Any], out: Path) -> str:
    """Says where the run goes on, after moving checkpoints of a line that is left out of the way."""
    moved = retention.set_aside(out, choice.trainer["step"])
    differ = differences(choice.trainer["settings"], settings)
    changed = ", ".join(f"{name}: {values}" for name, values in differ.items() if name != "resume")
    lines = [f"going on from {choice.path}, {choice.why}"]
    lines += [f"  written again from its state: {', '.join(choice.lost)}"] if choice.lost else []
    lines += [f"  {len(moved)} later checkpoints were moved to {out / 'abandoned'}"] if moved else []
    lines += [f"  changed since: {changed}"] if changed else []
    return "\n".join(lines)


def begun_anew(out: Path) -> str | None:
    """Moves checkpoints without a state, which the ones of a run that begins anew would stand behind, out of the way;
    says so.
    """
    moved = retention.set_aside(out, 0)
    return (
        f"beginning anew: {len(moved)} checkpoints without state were moved to {out / 'abandoned'}" if moved else None
    )
