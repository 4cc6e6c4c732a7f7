"""Where everything about each record stands once cleaning is done: by it reports and `explain` find their way."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.text.cleaning.line import Line
from danlu.text.cleaning.parts import Alterations, Languages, Part, Turn
from danlu.text.readers import Piece
from danlu.text.records import Record
from danlu.text.settings import CleanSettings, CleanSource, Step
from danlu.text.steps.base import KINDS
from danlu.text.steps.basic import LanguageStep

TRAIL = "trail.json"
_STEP: TypeAdapter[Step] = TypeAdapter(Step)


@dataclass(frozen=True, slots=True)
class PartTrail:
    """One part, its way through all steps, and what became of each of its records."""

    part: Part
    turns: list[Turn]
    numbers: list[int | None]
    """By turn the number of its step in the settings; None for a language that only other steps ask for."""
    languages: Languages | None
    verdicts: str

    @property
    def source(self) -> str:
        """What the source is called in folders and reports."""
        return self.part.name.split("/")[1]

    def may_hold(self, origin: str) -> bool:
        """Whether a file of the part may be that of "file:line"."""
        name = origin.rpartition(":")[0]
        return any(file.as_posix() == name or file.as_posix().endswith(f"/{name}") for file in self.part.files)

    def originals_of(self, rows: list[int]) -> dict[int, Record]:
        """Records of the part as they are read, by row. Raises UserError where a file is not what it was."""
        return {
            row: record
            for found, records in self.part.batches_of(np.unique(np.array(rows, np.int64)))
            for row, record in zip(found.tolist(), records, strict=True)
        }

    def before(self, place: int, records: dict[int, Record], since: int = 0) -> dict[int, Record]:
        """The records as the turn at `place` meets them; behind the last place, as all turns leave them. Given are they
        as the turn at `since` meets them, by default as they are read."""
        rows = sorted(records)
        given = [records[row] for row in rows]
        made = Alterations(self.part, self.turns[since:place]).apply(np.array(rows, np.int64), given)
        return dict(zip(rows, made, strict=True))


@dataclass(frozen=True, slots=True)
class Trail:
    """All that a cleaned folder knows."""

    folder: Path
    settings: CleanSettings
    parts: list[PartTrail]

    @property
    def statistics(self) -> dict[str, list[dict[str, Any]]]:
        """By source what each turn did."""
        content: dict[str, list[dict[str, Any]]] = json.loads((self.folder / "statistics.json").read_text("utf-8"))
        return content

    def rows_of(self, kind: str, origins: set[str]) -> dict[str, list[tuple[PartTrail, int]]]:
        """Where the records that come from these "file:line" stand; sources may have files of one name."""
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import parquet

        found: dict[str, list[tuple[PartTrail, int]]] = {}
        for trail in self.parts:
            mine = {origin for origin in origins if trail.part.kind == kind and trail.may_hold(origin)}
            if not mine:
                continue
            column = parquet.read_table(trail.part.records, columns=["origin"])["origin"]
            for row in pc.indices_nonzero(pc.is_in(column, pa.array(sorted(mine)))).to_pylist():
                found.setdefault(column[row].as_py(), []).append((trail, row))
        return found


def write_trail(out: Path, settings: CleanSettings, lines: list[Line]) -> None:
    """Writes the trail; paths below or beside `out` are relative to it, so that a run can be moved."""
    content: dict[str, Any] = {"settings": settings.model_dump(), "kinds": {}, "parts": []}
    for line in lines:
        numbers = [number for number, step in enumerate(settings.steps) if line.kind in step.kinds]
        first = line.parts[0]
        content["kinds"][line.kind] = {
            "languages": first.languages and first.languages.step.model_dump(),
            "turns": [
                {
                    "step": turn.step.model_dump(),
                    "number": None if number is None else numbers[number],
                    "edits": turn.edits,
                    "findings": [_relative(file, out) for file in turn.findings],
                    "asks": turn.languages is not None,
                    "scorer": turn.scorer,
                }
                for turn, number in zip(first.turns, line.step_of, strict=True)
            ],
        }
        for progress in line.parts:
            part = asdict(progress.part)
            content["parts"].append(
                {
                    **part,
                    "source": progress.part.source.model_dump(),
                    "records": _relative(progress.part.records, out),
                    "columns": [_relative(turn.columns, out) for turn in progress.turns],
                    "languages": progress.languages and _relative(progress.languages.columns, out),
                    "verdicts": _relative(progress.verdicts[-1], out),
                }
            )
    with atomic_file(out / TRAIL) as handle:
        json.dump(content, handle, ensure_ascii=False)


def read_trail(folder: Path) -> Trail:
    """The trail of a cleaned folder. Raises UserError where there is none, or one of other code."""
    path = folder / TRAIL
    try:
        content = json.loads(path.read_text("utf-8"))
        settings = CleanSettings.model_validate_json(json.dumps(content["settings"]))
        kinds = {kind: _turns(content["kinds"][kind], folder) for kind in KINDS if kind in content["kinds"]}
        parts = [_part(dict(entry), kinds[entry["kind"]], folder) for entry in content["parts"]]
    except OSError:
        raise UserError(
            "nothing was cleaned here", where=str(folder), do="name a run that has a clean stage, or its clean folder"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"this was written by another danlu ({error})", where=str(path), do="clean again") from None
    return Trail(folder, settings, parts)


def _turns(content: dict[str, Any], folder: Path) -> tuple[list[Turn], list[Any], list[bool], LanguageStep | None]:
    turns = [
        Turn(
            _STEP.validate_json(json.dumps(entry["step"])), "", entry["edits"],
            tuple(_absolute(file, folder) for file in entry["findings"]), None, entry["scorer"],
        )
        for entry in content["turns"]
    ]  # fmt: skip
    entries = content["turns"]
    step = content["languages"]
    languages = None if step is None else LanguageStep.model_validate_json(json.dumps(step))
    return turns, [entry["number"] for entry in entries], [entry["asks"] for entry in entries], languages


def _part(entry: dict[str, Any], kind: Any, folder: Path) -> PartTrail:
    turns, numbers, asks, step = kind
    columns, verdicts = entry.pop("columns"), entry.pop("verdicts")
    file = entry.pop("languages")
    languages = Languages(_absolute(file, folder), step) if file else None
    entry["source"] = CleanSource.model_validate_json(json.dumps(entry["source"]))
    entry["pieces"] = [Piece(**piece) for piece in entry["pieces"]]
    entry["records"] = _absolute(entry["records"], folder)
    own = [
        replace(turn, columns=_absolute(file, folder) if file else "", languages=languages if asked else None)
        for turn, file, asked in zip(turns, columns, asks, strict=True)
    ]
    return PartTrail(Part(**entry), own, numbers, languages, _absolute(verdicts, folder))


def _relative(file: str, out: Path) -> str:
    return os.path.relpath(file, out) if file else ""


def _absolute(file: str, folder: Path) -> str:
    return os.path.normpath(folder / file)
