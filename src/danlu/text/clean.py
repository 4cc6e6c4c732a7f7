"""Cleaning: measure every record, find equals over all tasks, judge; each step of it a list of tasks."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import NAME as MANIFEST
from danlu.ledger.manifest import write_manifest
from danlu.ledger.tasks import Task, run_tasks
from danlu.text.adapters.table import kinds
from danlu.text.clean_tasks import judge, measure
from danlu.text.files import source_files, source_name
from danlu.text.ops.exact_dedup import BUCKET_ROWS, find_twins
from danlu.text.readers import Piece, read_rows
from danlu.text.settings import KINDS, CleanSettings, CleanSource, Kind
from danlu.text.survey import groups, survey

ALONE_BYTES = 1 << 24  # input for which starting worker processes takes longer than the work


@dataclass(frozen=True)
class _Part:
    """What one task reads and writes."""

    source: CleanSource
    kind: Kind
    name: str  # "documents/wiki/part-00000"
    pieces: list[Piece]

    @property
    def files(self) -> list[Path]:
        return [Path(file) for file in dict.fromkeys(piece.file for piece in self.pieces)]


def clean(settings: CleanSettings, out: Path) -> None:
    """Writes {documents,conversations,preferences}/SOURCE/part-*.jsonl.zst, dropped/ of the same form with `step`,
    `reason` and `value` in each row, columns/ with all that was measured, and manifest.json with counts and hashes.

    Interrupted anywhere, the same call goes on from there; with other thresholds, only the judging is done again.
    Raises UserError for sources with nothing to read, with one name, or with too many bad rows.
    """
    (out / MANIFEST).unlink(missing_ok=True)  # what stands beside an old manifest is about to change
    return _Cleaning(settings, out).run()


class _Cleaning:
    def __init__(self, settings: CleanSettings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.left_out = Counts()
        self.input_bytes = 0

    def run(self) -> None:
        sources = [(source, source.kind or _kind(source)) for source in self.settings.sources]
        _check_names(sources)
        files = {id(source): source_files(source, kind, self.left_out) for source, kind in sources}
        surveyed = self._survey([file for listed in files.values() for file in listed])
        self.input_bytes = sum(found["bytes"] for found in surveyed.values())
        parts = [
            _Part(source, kind, f"{kind}s/{_folder(source)}/part-{index:05d}", pieces)
            for source, kind in sources
            for index, pieces in enumerate(self._groups(source, files[id(source)], surveyed))
        ]
        measured = self._measure(parts)
        self._check_bad(parts, measured)
        judged = self._judge(parts, self._twins(parts, measured))
        self._remove_stale(parts)
        self._write_manifest(parts, surveyed, measured, judged)

    def _survey(self, files: list[Path]) -> dict[Path, dict[str, Any]]:
        size = self.settings.task_bytes
        unique = list(dict.fromkeys(files))
        tasks = [Task(f"survey {file}", survey, {"file": str(file), "piece_bytes": size}, [file]) for file in unique]
        hashed = sum(file.stat().st_size for file in unique) // 64  # hashing is that much faster than cleaning
        return dict(zip(unique, self._run(tasks, "survey", hashed), strict=True))

    def _groups(self, source: CleanSource, files: list[Path], surveyed: dict[Path, Any]) -> list[list[Piece]]:
        pieces = [Piece(**piece) for file in files for piece in surveyed[file]["pieces"]]
        # "The first rows" are known only to who reads a source in order.
        return [pieces] if source.limit is not None else groups(pieces, self.settings.task_bytes)

    def _measure(self, parts: list[_Part]) -> list[dict[str, Any]]:
        tasks = []
        for part in parts:
            steps = [step.measuring() for step in self.settings.steps if part.kind in step.kinds]
            arguments = {**self._reads(part), "steps": steps, "out": str(self._columns(part))}
            tasks.append(Task(f"measure {part.name}", measure, arguments, part.files, [self._columns(part)]))
        return self._run(tasks, "measure", self.input_bytes)

    def _twins(self, parts: list[_Part], measured: list[dict[str, Any]]) -> dict[Kind, list[Path]]:
        """For each kind of record, the files that name its duplicates."""
        tasks, found = [], {}
        for kind in KINDS:
            mine = [index for index, part in enumerate(parts) if part.kind == kind]
            deduplicated = any(step.op == "exact_dedup" and kind in step.kinds for step in self.settings.steps)
            rows = sum(measured[index]["records"] for index in mine)
            buckets = max(1, -(-rows // BUCKET_ROWS)) if mine and deduplicated else 0
            found[kind] = [self.out / "columns" / f"{kind}s" / f"twins-{i:05d}.parquet" for i in range(buckets)]
            columns = [self._columns(parts[index]) for index in mine]
            for bucket, path in enumerate(found[kind]):
                arguments = {"columns": [str(file) for file in columns], "bucket": bucket, "buckets": buckets}
                task = Task(f"twins {kind} {bucket}", find_twins, {**arguments, "out": str(path)}, columns, [path])
                tasks.append(task)
        self._run(tasks, "find equals", 8 * sum(result["records"] for result in measured))
        return found

    def _judge(self, parts: list[_Part], twins: dict[Kind, list[Path]]) -> list[dict[str, Any]]:
        tasks = []
        place = Counter[Kind]()  # a part's number among those of its kind
        for part in parts:
            outputs = [self._kept(part), self._dropped(part)]
            arguments = {
                **self._reads(part),
                "steps": [step.model_dump() for step in self.settings.steps if part.kind in step.kinds],
                "columns": str(self._columns(part)),
                "task": place[part.kind],
                "twins": [str(file) for file in twins[part.kind]],
                "kept": str(outputs[0]),
                "dropped": str(outputs[1]),
            }
            inputs = [*part.files, self._columns(part), *twins[part.kind]]
            tasks.append(Task(f"judge {part.name}", judge, arguments, inputs, outputs))
            place[part.kind] += 1
        return self._run(tasks, "judge", self.input_bytes)

    def _run(self, tasks: list[Task], title: str, nbytes: int) -> list[Any]:
        workers = 1 if nbytes < ALONE_BYTES else self.settings.workers
        ledger = self.out / "tasks" / title.replace(" ", "-")
        return run_tasks(tasks, ledger, workers=workers, title=f"clean: {title}")

    def _reads(self, part: _Part) -> dict[str, Any]:
        source = part.source.model_dump(exclude={"kind", "weight"})
        return {"source": source, "kind": part.kind, "pieces": [asdict(piece) for piece in part.pieces]}

    def _columns(self, part: _Part) -> Path:
        return self.out / "columns" / f"{part.name}.parquet"

    def _kept(self, part: _Part) -> Path:
        return self.out / f"{part.name}.jsonl.zst"

    def _dropped(self, part: _Part) -> Path:
        return self.out / "dropped" / f"{part.name}.jsonl.zst"

    def _check_bad(self, parts: list[_Part], measured: list[dict[str, Any]]) -> None:
        for source in self.settings.sources:
            counts = Counts()
            for part, result in zip(parts, measured, strict=True):
                if part.source is source:
                    counts.merge(Counts.from_dict(result["counts"]))
            bad = {reason: entry for reason, entry in counts.as_dict().items() if reason.startswith("bad: ")}
            number = sum(entry["count"] for entry in bad.values())
            if number > source.max_bad_share * counts["rows"]:
                shown = "; ".join(
                    f"{entry['count']} {reason[5:]}: {entry['examples'][0]}" for reason, entry in bad.items()
                )
                raise UserError(
                    f"{number} of {counts['rows']} rows cannot be used. {shown}",
                    where=source.path,
                    do=f"mend the source, name its adapter, or raise max_bad_share (now {source.max_bad_share:g})",
                )

    def _remove_stale(self, parts: list[_Part]) -> None:
        """Removes what an earlier call with other settings wrote."""
        mine = {path for part in parts for path in (self._kept(part), self._dropped(part), self._columns(part))}
        for kind in KINDS:
            for folder in (self.out, self.out / "dropped", self.out / "columns"):
                for file in (folder / f"{kind}s").glob("*/part-*"):
                    if file not in mine:
                        file.unlink()

    def _write_manifest(
        self,
        parts: list[_Part],
        surveyed: dict[Path, dict[str, Any]],
        measured: list[dict[str, Any]],
        judged: list[dict[str, Any]],
    ) -> None:
        by_source: dict[str, dict[str, Any]] = {}
        for part, read, verdict in zip(parts, measured, judged, strict=True):
            entry = by_source.setdefault(
                f"{part.kind}s/{_folder(part.source)}",
                {"kept": 0, "text_bytes": 0, "read": Counts(), "dropped": Counts(), "languages": Counter()},
            )
            entry["kept"] += verdict["kept"]
            entry["text_bytes"] += verdict["text_bytes"]
            entry["read"].merge(Counts.from_dict(read["counts"]))
            entry["dropped"].merge(Counts.from_dict(verdict["dropped"]))
            entry["languages"].update(verdict["languages"])
        for entry in by_source.values():
            entry.update(read=entry["read"].as_dict(), dropped=entry["dropped"].as_dict())
        write_manifest(
            self.out,
            {
                "stage": "clean",
                "settings": self.settings.model_dump(),
                "inputs": [
                    {"file": str(file), "sha256": found["sha256"], "bytes": found["bytes"]}
                    for file, found in surveyed.items()
                ],
                "parts": [
                    {
                        "file": f"{part.name}.jsonl.zst",
                        "kind": part.kind,
                        "records": verdict["kept"],
                        "sha256": verdict["sha256"],
                    }
                    for part, verdict in zip(parts, judged, strict=True)
                ],
                "sources": by_source,
                "left_out": self.left_out.as_dict(),
            },
        )


def _kind(source: CleanSource) -> Kind:
    """What a source's first readable row holds."""
    for file in source_files(source, None, Counts()):
        for row in read_rows(file, lambda problem, where: None, document=source.document):
            found = kinds(row.fields)
            if len(found) > 1:
                raise UserError(
                    f"a row here can be read as {' or '.join(found)}",
                    where=row.where,
                    do=f"add `kind: {found[0]}` to the source",
                )
            if found:
                return found[0]
    raise UserError(
        "no row here fits any known schema", where=source.path, do="add `kind:` to the source to see what its rows lack"
    )


def _check_names(sources: list[tuple[CleanSource, Kind]]) -> None:
    names = Counter((kind, _folder(source)) for source, kind in sources)
    for (kind, name), times in names.items():
        if times > 1:
            raise UserError(f"{times} sources of {kind}s are called {name}", do="give each a `name` of its own")


def _folder(source: CleanSource) -> str:
    return re.sub(r"[^\w.-]+", "_", source_name(source)).strip(".") or "source"
