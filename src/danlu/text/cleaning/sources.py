"""From sources to parts: which files, cut where, each part with a name and a key that its content decides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import fingerprint, sha256_file
from danlu.ledger.tasks import Task
from danlu.text.adapters.table import kinds
from danlu.text.cleaning.parts import Part
from danlu.text.files import data_files, source_files, source_name
from danlu.text.readers import Piece, read_rows
from danlu.text.settings import CleanSettings, CleanSource, Kind
from danlu.text.survey import groups, survey

READERS = 2
"""To be raised with every change of code that makes other records of the same files."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is to clean."""

    parts: list[Part]
    inputs: list[dict[str, Any]]
    """File, sha256 and bytes of each."""
    left_out: Counts = field(default_factory=Counts)

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.inputs)


def survey_sources(settings: CleanSettings, columns: Path, run: Callable[[list[Task], int], list[Any]]) -> Survey:
    """Looks at every file, for parts whose columns stand in `columns`; `run` takes tasks and the bytes that they read.

    Raises UserError for sources with one name, and for those in which nothing can be read.
    """
    if not settings.sources:
        raise UserError("there is nothing to clean: no source is named", do="write clean.sources: [{path: …}]")
    left_out = Counts()
    sources = [(source, source.kind or kind_of(source)) for source in settings.sources]
    _check_names(sources)
    listed = [source_files(source, kind, left_out) for source, kind in sources]
    wanted = {
        (file, source.document): None for (source, _), files in zip(sources, listed, strict=True) for file in files
    }
    tasks = [
        Task(
            f"survey {file} {document}",
            survey,
            {"file": str(file), "piece_bytes": settings.task_bytes, "document": document},
            [file],
        )
        for file, document in wanted
    ]
    surveyed = dict(zip(wanted, run(tasks, sum(file.stat().st_size for file, _ in wanted)), strict=True))
    numbers, parts = Counter[Kind](), []
    for source_number, ((source, kind), files) in enumerate(zip(sources, listed, strict=True)):
        pieces = [Piece(**piece) for file in files for piece in surveyed[file, source.document]["pieces"]]
        # "The first rows" are known only to who reads a source in order.
        cut = [pieces] if source.limit is not None else groups(pieces, settings.task_bytes)
        for index, group in enumerate(cut):
            name = f"{kind}s/{folder_name(source)}/part-{index:05d}"
            found = {piece.file: surveyed[Path(piece.file), source.document] for piece in group}
            parts.append(_part(name, numbers[kind], kind, source_number, source, group, found, columns))
            numbers[kind] += 1
    inputs = {str(file): entry for (file, _), entry in surveyed.items()}
    listing = [{"file": file, "sha256": e["sha256"], "bytes": e["bytes"]} for file, e in inputs.items()]
    return Survey(parts, listing, left_out)


def folder_name(source: CleanSource) -> str:
    """The source's name as a folder's."""
    return re.sub(r"[^\w.-]+", "_", source_name(source)).strip(".") or "source"


def file_digests(settings: CleanSettings) -> dict[str, str]:
    """The hash of every file and folder that the steps name. Raises UserError for one that is missing."""
    digests: dict[str, str] = {}
    for step in settings.steps:
        for name in step.files():
            try:
                digests[name] = fingerprint([sha256_file(file) for file in data_files(Path(name))])
            except UserError as error:
                raise UserError(
                    f"a file of the step {step.called} is missing: {error.what}", where=error.where, do=error.do
                ) from None
    return digests


def _part(
    name: str,
    number: int,
    kind: Kind,
    source_number: int,
    source: CleanSource,
    pieces: list[Piece],
    found: dict[str, Any],
    columns: Path,
) -> Part:
    # Whether too many rows are bad is a question to the whole source, so it is asked after all tasks.
    reads = source.model_copy(update={"weight": 1.0, "max_bad_share": 1.0, "kind": kind})
    key = fingerprint(
        [
            READERS,
            reads.model_dump(exclude={"name"}),
            [[found[piece.file]["sha256"], piece.start, piece.stop] for piece in pieces],
        ]
    )[:16]
    stamps = {file: entry["stamp"] for file, entry in found.items()}
    records = columns / name / f"records-{key}.parquet"
    return Part(name, number, kind, source_number, reads, pieces, stamps, str(records))


def kind_of(source: CleanSource) -> Kind:
    """What a source's first readable row holds. Raises UserError where that is nothing, or two things."""
    if source.format == "code":
        return "document"
    empty, files = True, source_files(source, None, Counts())
    for file in files:
        for row in read_rows(file, lambda problem, where: None, document=source.document):
            empty, found = False, kinds(row.fields)
            if len(found) > 1:
                raise UserError(
                    f"a row here can be read as {' or '.join(found)}",
                    where=row.where,
                    do=f"add `kind: {found[0]}` to the source",
                )
            if found:
                return found[0]
    if not any(file.stat().st_size for file in files):
        raise UserError("empty: there is not a byte here", where=source.path, do="name a file that has rows")
    if empty:
        raise UserError(
            "no row can be read here",
            where=source.path,
            do="add `kind:` to the source to see why",
        )
    raise UserError(
        "no row here fits any known schema", where=source.path, do="add `kind:` to the source to see what its rows lack"
    )


def _check_names(sources: list[tuple[CleanSource, Kind]]) -> None:
    names = Counter((kind, folder_name(source)) for source, kind in sources)
    for (kind, name), times in names.items():
        if times > 1:
            raise UserError(f"{times} sources of {kind}s are called {name}", do="give each a `name` of its own")
