"""Stages in order: what is unchanged is skipped, what is stale is parked and made again, what was cut short goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.files import atomic_file, fingerprint, make_folder, read_json
from danlu.recipe.changes import Basis, Change, Files, changes, few, named_below, without
from danlu.report.words import Language

RECORD = "stage.json"
PARKED = ".parked"
WORDS = {
    "en": {
        "anew": "{name} starts anew, as {why}; what was there is kept in {place}",
        "nothing known": "nothing says from what it was made",
        "instead": "; {setting} goes on instead",
        "on": "{name} goes on from what is there, though {why}",
        "move": "; to begin anew move {folder} away",
        "again": "{name}: {gone}; it is made again",
        "gone": "{name}: {gone}; nothing that is to be done needs it",
    },
    "zh": {
        "anew": "{name} 从头开始，因为 {why}；原有的结果留在 {place}",
        "nothing known": "没有记录说明它由什么制成",
        "instead": "；写上 {setting} 则接着做",
        "on": "{name} 从已有的结果接着做，尽管 {why}",
        "move": "；要从头开始，请移走 {folder}",
        "again": "{name}：{gone}；将重新制作",
        "gone": "{name}：{gone}；要做的事都用不到它",
    },
}
"""Of what `notices` tells."""


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    `run` fills `folder`, and can be killed and called again. `settings` (JSON-like) and `sources` (files and folders
    outside the run) are what it depends on besides the stages that it `needs`; those named in `free` change how it
    works and not what comes out, and where only those in `open` changed an unfinished stage goes on. A stage that
    `goes_on` was told to take up what its folder holds, whatever changed; one that would be begun anew for settings in
    `open` can be told so by the setting `instead`. `lacks` says in words what is gone of what it made; a `product` is
    made for its own sake and not for later stages only. Sources of which nothing is left count as they were when the
    stage ran: what is packed on one machine trains on another to which its text never came.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    run: Callable[[], object]
    needs: tuple[Stage, ...] = ()
    sources: tuple[Path, ...] = ()
    free: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    goes_on: bool = False
    instead: str = ""
    lacks: Callable[[Language], str] = lambda language: ""
    product: bool = False

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.folder.parents[self.name.count("/")]

    def key(self) -> str:
        """Equal keys mean that the stage would do the same work on the same input."""
        basis = self.basis()
        return fingerprint([self.name, basis.settings, basis.files, basis.needs])

    def basis(self) -> Basis:
        """What its results stand on; what lies in the run's folder is named from there."""
        settings = named_below(self.root, without(self.settings, self.free))
        return Basis(settings, self.files(), {stage.name: stage.key() for stage in self.needs})

    def files(self) -> Files:
        """What `sources` hold; where nothing is there, what they held when the stage ran."""
        found = [_identity(path) for path in self.sources]
        record = None if any(found) else read_record(self.folder)
        return record.basis.files if record and record.basis and record.basis.files else found

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
    seconds: float
    basis: Basis | None
    """None where an older danlu wrote it."""


def state(stage: Stage, among: Sequence[Stage] = ()) -> str:
    """`unchanged`, `unfinished`, `parked`, `stale` or `new`: what `run_stages` of the stages `among` will find."""
    record = read_record(stage.folder)
    key = stage.key()
    if record and record.key == key:
        return "unchanged" if record.finished and not _missed(stage, among) else "unfinished"
    if record and stage.goes_on:
        return "unfinished"
    if _parked(stage, key).is_dir():
        return "parked"
    if record and not record.finished and _only_open(stage, _changes(stage, record)):
        return "unfinished"
    return "stale" if stage.folder.exists() else "new"


def run_stages(stages: Sequence[Stage]) -> Iterator[Outcome]:
    """Brings every stage up to date, in order, and tells of each once it is."""
    for stage in stages:
        found, key, basis = state(stage, stages), stage.key(), stage.basis()
        if found == "unchanged":
            yield Outcome(stage, "unchanged")
            continue
        parked = _park(stage) if found in ("stale", "parked") and stage.folder.exists() else None
        if found == "parked":
            _parked(stage, key).rename(stage.folder)
            if state(stage, stages) == "unchanged":
                yield Outcome(stage, "restored", parked=parked)
                continue
        make_folder(stage.folder)
        before = read_record(stage.folder)
        spent = before.seconds if before else 0.0
        _write_record(stage.folder, Record(key, False, spent, basis))
        start = time.monotonic()
        try:
            stage.run()
        finally:
            spent += time.monotonic() - start
            _write_record(stage.folder, Record(key, False, spent, basis))
        _write_record(stage.folder, Record(key, True, spent, basis))
        yield Outcome(stage, "continued" if before else "finished", spent, parked)


def notices(stages: Sequence[Stage], language: Language = "en") -> Iterator[str]:
    """What `run_stages` will do to results that are there, said before the work: which stages are begun anew and which
    go on although something changed, and why.
    """
    words = WORDS[language]
    for stage in stages:
        record, found = read_record(stage.folder), state(stage, stages)
        why = _changes(stage, record) if record else []
        listed = few([change.zh if language == "zh" else change.en for change in why], language)
        if found == "stale":
            kept = _free_place(stage, record)
            told = words["anew"].format(name=stage.name, why=listed if record else words["nothing known"], place=kept)
            instead = stage.instead and _only_open(stage, why)
            yield told + (words["instead"].format(setting=stage.instead) if instead else "")
        elif found == "unfinished" and why:
            anew = "" if stage.goes_on else words["move"].format(folder=stage.folder)
            yield words["on"].format(name=stage.name, why=listed) + anew
        elif record and record.finished and found in ("unchanged", "unfinished") and (gone := stage.lacks(language)):
            yield words["again" if found == "unfinished" else "gone"].format(name=stage.name, gone=gone)


def with_needs(stage: Stage) -> list[Stage]:
    """The stage and all that it needs, directly or not; a stage may come twice."""
    return [stage, *(inner for needed in stage.needs for inner in with_needs(needed))]


def _missed(stage: Stage, among: Sequence[Stage]) -> bool:
    """Whether a finished stage lacks a part of what it made, and a stage that will run, or who asked, needs it."""
    if not stage.lacks("en"):
        return False
    users = [other for other in among if stage.name in [needed.name for needed in with_needs(other)[1:]]]
    return stage.product or not users or any(state(user, among) != "unchanged" for user in users)


def _changes(stage: Stage, record: Record) -> list[Change]:
    if record.basis is None:
        return [
            Change("", "an older danlu made it and did not note from what", "制作它的旧版 danlu 没有记下由什么制成")
        ]
    return changes(record.basis, stage.basis())


def _only_open(stage: Stage, found: list[Change]) -> bool:
    return all(change.within(stage.open) for change in found)


def read_record(folder: Path) -> Record | None:
    """What is known of a stage's folder, or None for one that no run began."""
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_json(path)
    basis = Basis(**content["basis"]) if "basis" in content else None
    return Record(content["key"], content["finished"], content["seconds"], basis)


def _write_record(folder: Path, record: Record) -> None:
    with atomic_file(folder / RECORD) as handle:
        json.dump({**asdict(record), "seconds": round(record.seconds, 1)}, handle, ensure_ascii=False)


def _park(stage: Stage) -> Path:
    """Moves results of other settings aside: they cost time, and going back to those settings brings them back."""
    target = _free_place(stage, read_record(stage.folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    return stage.folder.rename(target)


def _free_place(stage: Stage, record: Record | None) -> Path:
    """Where what its folder holds is kept once it is parked."""
    target = _parked(stage, record.key if record else "unknown")
    while target.exists():
        target = target.with_name(target.name + "+")
    return target


def _parked(stage: Stage, key: str) -> Path:
    return stage.root / PARKED / f"{stage.name.replace('/', '-')}-{key[:12]}"


def _identity(path: Path) -> list[list[Any]]:
    """The files at `path` by name, size and time of change; a name that is not there counts as nothing."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
