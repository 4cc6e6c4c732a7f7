"""Stages in order: what is unchanged is skipped, what is stale is parked and made again, what was cut short goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from danlu.ledger.files import atomic_file, fingerprint, make_folder, read_json

RECORD = "stage.json"
PARKED = ".parked"
Files = list[list[tuple[str, int, int]]]
"""For each source its files: name, size, time of change."""


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    `run` fills `folder`, and can be killed and called again. `settings` (JSON-like) and `sources` (files and folders
    outside the run) are what it depends on besides the stages that it `needs`; those named in `free` change how it
    works and not what comes out. A stage that `goes_on` was told to take up what its folder holds, whatever changed.
    `whole` says whether what it made outside its folder is still there. Sources of which nothing is left count as they
    were when the stage ran: what is packed on one machine trains on another to which its text never came.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    run: Callable[[], object]
    needs: tuple[Stage, ...] = ()
    sources: tuple[Path, ...] = ()
    free: tuple[str, ...] = ()
    goes_on: bool = False
    whole: Callable[[], bool] = lambda: True

    def key(self) -> str:
        """Equal keys mean that the stage would do the same work on the same input."""
        settings = _without(self.settings, self.free)
        return fingerprint([self.name, settings, self.files(), [stage.key() for stage in self.needs]])

    def files(self) -> Files:
        """What `sources` hold; where nothing is there, what they held when the stage ran."""
        found = [_identity(path) for path in self.sources]
        record = None if any(found) else read_record(self.folder)
        return record.files if record and record.files else found

    def without_sources(self) -> bool:
        """Whether it stands on files that are not here."""
        return any(self.files()) and not any(_identity(path) for path in self.sources)


@dataclass
class Outcome:
    """What became of a stage: `unchanged`, `finished` now, `continued` or `restored` from the parked folders."""

    stage: Stage
    state: str
    seconds: float = 0.0
    parked: Path | None = None


@dataclass(frozen=True)
class Record:
    """What stage.json holds about the folder beside it."""

    key: str
    finished: bool
    seconds: float = 0.0
    files: Files = field(default_factory=list)


def state(stage: Stage) -> str:
    """`unchanged`, `unfinished`, `parked`, `stale` or `new`: what `run_stages` will find."""
    record = read_record(stage.folder)
    key = stage.key()
    if record and record.key == key:
        return "unchanged" if record.finished else "unfinished"
    if record and stage.goes_on:
        return "unfinished"
    if _parked(stage, key).is_dir():
        return "parked"
    return "stale" if stage.folder.exists() else "new"


def run_stages(stages: list[Stage]) -> Iterator[Outcome]:
    """Brings every stage up to date, in order, and tells of each once it is."""
    for stage in stages:
        found, key, files = state(stage), stage.key(), stage.files()
        if found == "unchanged" and not _missed(stage, stages):
            yield Outcome(stage, "unchanged")
            continue
        parked = _park(stage) if found in ("stale", "parked") and stage.folder.exists() else None
        if found == "parked":
            _parked(stage, key).rename(stage.folder)
            restored = read_record(stage.folder)
            if restored and restored.finished:
                yield Outcome(stage, "restored", parked=parked)
                continue
        make_folder(stage.folder)
        before = read_record(stage.folder)
        spent = before.seconds if before else 0.0
        _write_record(stage.folder, Record(key, False, spent, files))
        start = time.monotonic()
        try:
            stage.run()
        finally:
            spent += time.monotonic() - start
            _write_record(stage.folder, Record(key, False, spent, files))
        _write_record(stage.folder, Record(key, True, spent, files))
        yield Outcome(stage, "continued" if before else "finished", spent, parked)


def with_needs(stage: Stage) -> list[Stage]:
    """The stage and all that it needs, directly or not; a stage may come twice."""
    return [stage, *(inner for needed in stage.needs for inner in with_needs(needed))]


def _missed(stage: Stage, stages: list[Stage]) -> bool:
    """Whether a finished stage lacks a part of what it made, and a stage that will run, or who asked, needs it."""
    if stage.whole():
        return False
    users = [other for other in stages if stage.name in [needed.name for needed in with_needs(other)[1:]]]
    return not users or any(state(user) != "unchanged" for user in users)


def read_record(folder: Path) -> Record | None:
    """What is known of a stage's folder, or None for one that no run began."""
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_json(path)
    return Record(content["key"], content["finished"], content["seconds"], content.get("files", []))


def _write_record(folder: Path, record: Record) -> None:
    with atomic_file(folder / RECORD) as handle:
        json.dump({**asdict(record), "seconds": round(record.seconds, 1)}, handle, ensure_ascii=False)


def _park(stage: Stage) -> Path | None:
    """Moves results of other settings aside: they cost time, and going back to those settings brings them back."""
    record = read_record(stage.folder)
    target = _parked(stage, record.key if record else "unknown")
    target.parent.mkdir(parents=True, exist_ok=True)
    while target.exists():
        target = target.with_name(target.name + "+")
    stage.folder.rename(target)
    return target


def _without(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The settings but those of dotted `names`."""
    left = dict(settings)
    for name in names:
        head, _, rest = name.partition(".")
        if rest and head in left:
            left[head] = _without(left[head], (rest,))
        elif not rest:
            left.pop(head, None)
    return left


def _parked(stage: Stage, key: str) -> Path:
    root = stage.folder.parents[stage.name.count("/")]
    return root / PARKED / f"{stage.name.replace('/', '-')}-{key[:12]}"


def _identity(path: Path) -> list[tuple[str, int, int]]:
    """The files at `path` by name, size and time of change; a name that is not there counts as nothing."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
