"""The life of one record through cleaning, put together from what every step wrote down."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from danlu.ledger.errors import UserError
from danlu.text.cleaning.columns import ColumnReader, FindingsReader
from danlu.text.cleaning.trail import PartTrail, Trail
from danlu.text.records import Conversation, Document, Preference, Record, content_hash
from danlu.text.streams import byte_chunks, lines

MOST = 5
"""Records that one question may mean."""
_HASH = re.compile(r"[0-9a-f]{16}")
_KINDS: dict[str, type[Document | Conversation | Preference]] = {
    "document": Document,
    "conversation": Conversation,
    "preference": Preference,
}
Found = tuple[PartTrail, int]


@dataclass(frozen=True, slots=True)
class Event:
    """What a step did with the record."""

    step: str
    values: dict[str, Any]
    """What it measured, and found across records."""
    bounds: dict[str, tuple[float | None, float | None]]
    """The thresholds of those values."""
    before: Record | None = None
    after: Record | None = None
    """Both given where it changed the record."""
    reason: str | None = None
    value: Any = None
    """Given where it dropped the record."""


@dataclass(slots=True)
class Life:
    """A record from its source to where cleaning left it."""

    kind: str
    source: str
    origin: str
    file: str
    language: str
    original: Record
    last: Record
    """As it was kept, or as the step saw it that dropped it."""
    events: list[Event] = field(default_factory=list)
    twin: tuple[str, Record] | None = None
    """Where the kept one comes from, and what it said at that step, where a twin was the reason."""

    @property
    def kept(self) -> bool:
        return all(event.reason is None for event in self.events)

    @property
    def hash(self) -> int:
        """Of what it says at the end: by it token sets know it."""
        return content_hash(self.last)


def find_records(trail: Trail, wanted: str) -> list[Found]:
    """The records that `wanted` means: "file:line", a content hash in 16 hex digits, or a piece of their text.

    Raises UserError with the nearest known ones where there is none.
    """
    if not wanted.strip():
        raise UserError("no record is named", do="name FILE:LINE, a content hash, or a piece of the text")
    found = _at_origin(trail, wanted)
    if not found and _HASH.fullmatch(wanted.lower()):
        found = _with_hash(trail, int(wanted, 16))
    if not found:
        found = _with_text(trail, wanted)
    if not found:
        near = _near(trail, wanted)
        raise UserError(
            f"no record has the id or the text {wanted!r}",
            where=str(trail.folder),
            do=f"the nearest are {', '.join(near)}" if near else "name FILE:LINE as `meta.origin` has it",
        )
    return found[:MOST]


def life_of(trail: Trail, part: PartTrail, row: int) -> Life:
    """All that is known of a record. Raises UserError where its source is no longer what it was."""
    verdict = _row(part.verdicts, row)
    dropped = int(verdict["turn"])
    originals = part.originals_of([row])
    language = ""
    if part.languages:
        language = str(part.languages.of([_row(part.languages.columns, row)])[0])
    name = originals[row].meta["origin"]
    life = Life(part.part.kind, part.source, name, _file(part, name), language, originals[row], originals[row])
    for place, turn in enumerate(part.turns[: len(part.turns) if dropped < 0 else dropped + 1]):
        if turn.languages is not None and language not in turn.step.languages:
            continue
        values = _values(part, place, row)
        bounds = {
            name: (bound.min, bound.max)
            for name, bound in turn.step.bounds_in(language).items()
            if bound.min is not None or bound.max is not None
        }
        here = place == dropped
        reason, value = (verdict["reason"], json.loads(verdict["value"])) if here else (None, None)
        before = after = None
        if turn.alters and values.pop(".changed", False):
            before, after = part.before(place, originals)[row], part.before(place + 1, originals)[row]
            life.last = after
        values = {name: value for name, value in values.items() if not name.startswith(".")}
        if turn.edits and before is None and reason is None:
            continue  # what it found was told at its first turn
        life.events.append(Event(turn.step.called, values, bounds, before, after, reason, value))
        if here:
            life.twin = _twin(trail, part, place, value)
    return life


def _values(part: PartTrail, place: int, row: int) -> dict[str, Any]:
    """What a turn measured or found, without what only machines read."""
    turn = part.turns[place]
    values = _row(turn.columns, row) if turn.columns else {}
    if not turn.edits and turn.findings:
        values |= FindingsReader(list(turn.findings), part.part.number).take(np.array([row])).get(0, {})
    return {name: value for name, value in values.items() if not isinstance(value, bytes | list | None)}


def _row(path: str, row: int) -> dict[str, Any]:
    """A row of a file of columns; hashes as hex."""
    import pyarrow as pa

    found = ColumnReader(path).take(np.array([row]))
    hashes = {field.name for field in found.schema if pa.types.is_uint64(field.type)}
    values: dict[str, Any] = found.to_pylist()[0]
    return {n: f"{v:016x}" if n in hashes and v is not None else v for n, v in values.items()}


def _file(part: PartTrail, origin: str) -> str:
    name, _, line = origin.rpartition(":")
    return next((f"{file}:{line}" for file in part.part.files if file.as_posix().endswith(name)), origin)


def _twin(trail: Trail, part: PartTrail, place: int, value: Any) -> tuple[str, Record] | None:
    """The kept record that a duplicate's value names."""
    if not isinstance(value, dict) or "twin" not in value:
        return None
    origin = value["twin"]
    found = trail.rows_of(part.part.kind, {origin}).get(origin, [])
    if not found:
        return None
    kept, row = next((place for place in found if place[0].source == value["source"]), found[0])
    return origin, kept.before(place, kept.originals_of([row]))[row]


def _at_origin(trail: Trail, wanted: str) -> list[Found]:
    return [found for kind in _KINDS for found in trail.rows_of(kind, {wanted}).get(wanted, [])]


def _with_hash(trail: Trail, wanted: int) -> list[Found]:
    """By the hashes that exact deduplication measured, else by those of what was kept."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    found: list[Found] = []
    for part in trail.parts:
        for turn in part.turns:
            if turn.step.op == "exact_dedup" and turn.columns:
                column = parquet.read_table(turn.columns, columns=["hash"])["hash"]
                rows = pc.indices_nonzero(pc.equal(column, pa.scalar(wanted, pa.uint64())))
                found += [(part, row) for row in rows.to_pylist()]
    return found or _written(trail, lambda line: True, lambda row: _hash_of(row) == wanted)


def _hash_of(row: dict[str, Any]) -> int:
    return content_hash(_KINDS[row["kind"]].from_row(row))


def _with_text(trail: Trail, piece: str) -> list[Found]:
    """By a piece of what was written, kept or dropped."""
    needle = json.dumps(piece, ensure_ascii=False)[1:-1].encode()
    return _written(trail, lambda line: needle in line, lambda row: needle in _said(row))


def _said(row: dict[str, Any]) -> bytes:
    said = {name: value for name, value in row.items() if name in ("text", "messages", "chosen", "rejected")}
    return json.dumps(said, ensure_ascii=False).encode()


def _written(trail: Trail, may_be: Any, is_it: Any) -> list[Found]:
    """The first records among those written, kept ones first, whose line may be and whose row is the one."""
    found: list[Found] = []
    for folder in (trail.folder, trail.folder / "dropped"):
        for part in trail.parts:
            origins = [
                row["meta"]["origin"] for row in _rows(folder / f"{part.part.name}.jsonl.zst", may_be) if is_it(row)
            ]
            if origins:
                places = Trail(trail.folder, trail.settings, [part]).rows_of(part.part.kind, set(origins[:MOST]))
                found += [place for origin in dict.fromkeys(origins[:MOST]) for place in places.get(origin, [])]
            if len(found) >= MOST:
                return found
    return found


def _rows(file: Path, may_be: Any) -> Iterator[dict[str, Any]]:
    if file.is_file():
        for line in lines(byte_chunks(file)):
            if may_be(line.content):
                yield json.loads(line.content)


def _near(trail: Trail, wanted: str) -> list[str]:
    """Known ids: of the same file the nearest lines, else of files with the nearest names."""
    name, _, line = wanted.rpartition(":")
    by_file: dict[str, list[PartTrail]] = {}
    for part in trail.parts:
        first = ColumnReader(part.part.records, ["origin"])
        if first.rows:
            by_file.setdefault(first.take(np.array([0]))["origin"][0].as_py().rpartition(":")[0], []).append(part)
    if name in by_file and line.isdecimal():
        known = [origin for part in by_file[name] for origin in _origins(part) if origin.rpartition(":")[0] == name]
        return sorted(known, key=lambda origin: abs(int(origin.rpartition(":")[2]) - int(line)))[:3]
    files = difflib.get_close_matches(name or wanted, list(by_file), 3, 0.5)
    return [_origins(by_file[file][0])[0] for file in files]


def _origins(part: PartTrail) -> list[str]:
    from pyarrow import parquet

    origins: list[str] = parquet.read_table(part.part.records, columns=["origin"])["origin"].to_pylist()
    return origins
