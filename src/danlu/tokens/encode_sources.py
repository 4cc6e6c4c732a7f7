"""From sources to stored token sets: what a set depends on, and the tasks that encode and merge one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import fingerprint
from danlu.ledger.manifest import write_manifest
from danlu.ledger.tasks import Task, Workers
from danlu.text.files import source_name
from danlu.text.readers import Piece
from danlu.text.settings import Kind, SourceSettings
from danlu.text.survey import groups
from danlu.tokens.labels import MOST
from danlu.tokens.pack_tasks import Encoder, encode_part, merge_shard
from danlu.tokens.settings import DataSettings
from danlu.tokens.shards import SPLITS, shard_name, write_token_set
from danlu.tokens.store import Store
from danlu.tokens.tokenizer import LITTLE

VERSION = 2
"""Of how records become shards: where that changes, sets of earlier versions are not found."""
NOT_IN_TOKENS = {"path", "name", "include", "exclude", "weight", "share", "max_epochs", "max_bad_share"}
"""Settings of a source that its tokens do not depend on, but for the files that they choose."""
Part = tuple[Path, dict[str, Any]]
"""Where `encode_part` wrote, and what it gave."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A source with its files as they were surveyed, and the key of its token set."""

    name: str
    source: SourceSettings
    surveyed: dict[Path, dict[str, Any]]
    key: str


def origin_of(
    name: str, source: SourceSettings, surveyed: dict[Path, dict[str, Any]], encoder: Encoder, shard_tokens: int
) -> Origin:
    """The source with the key of all that decides its tokens and the shards they lie in."""
    encoding = encoder.settings
    key = [
        VERSION,
        source_name(source),
        source.model_dump(exclude=NOT_IN_TOKENS),
        [(file.name, found["sha256"]) for file, found in surveyed.items()],
        encoder.tokenizer.fingerprint,
        encoder.fingerprint,
        encoding.unit,
        encoding.turns if encoder.template else None,
        encoding.held_out,
        [encoding.loss_on, encoding.prompts, encoding.own_system],
        [encoding.max_source_length, encoding.max_target_length],
        shard_tokens,
        date.today().isoformat() if encoder.dated else None,
    ]
    return Origin(name, source, surveyed, fingerprint(key)[:32])


class SourceEncoder:
    """Encodes origins in tasks, whose unfinished work lies in `work`, and publishes their sets."""

    def __init__(
        self, settings: DataSettings, encoder: Encoder, kind: Kind, store: Store, work: Path, workers: Workers
    ) -> None:
        self._settings, self._encoder, self._kind = settings, encoder, kind
        self._store, self._work, self._workers = store, work, workers

    def run(self, origins: Sequence[Origin]) -> None:
        """Raises UserError for a source with too many unusable rows, and for one that gives nothing."""
        encoded = self._encode(origins)
        for origin in origins:
            content = self._content(origin, encoded[origin.name])
            check_rows(origin, content)
            _tell_slow_encoding(content["encoders"])
        self._merge(origins, encoded)
        for origin in origins:
            made = self._made(origin)
            content = self._content(origin, encoded[origin.name])
            files = [path for path in made.rglob("*") if path.is_file()]
            write_manifest(made, {**content, "bytes": sum(path.stat().st_size for path in files)})
            self._store.publish(made, origin.key)
        for folder in ("runs", "sets", "encode", "merge"):
            shutil.rmtree(self._work / folder, ignore_errors=True)

    def _made(self, origin: Origin) -> Path:
        return self._work / "sets" / origin.key

    def _encode(self, origins: Sequence[Origin]) -> dict[str, list[Part]]:
        """By source, its parts."""
        tasks, folders = [], []
        tokenizer = Path(self._encoder.settings.tokenizer)
        own = sorted(path for path in tokenizer.iterdir() if path.suffix != ".safetensors")
        for origin in origins:
            for number, pieces in enumerate(self._pieces(origin)):
                folder = self._work / "runs" / origin.key / f"part-{number:05d}"
                arguments = {
                    "source": origin.source.model_dump(),
                    "kind": self._kind,
                    "pieces": [asdict(piece) for piece in pieces],
                    "encoding": asdict(self._encoder.settings),
                    "out": str(folder),
                }
                inputs = [Path(file) for file in dict.fromkeys(piece.file for piece in pieces)]
                asked = fingerprint([origin.key, arguments["pieces"]])
                tasks.append(
                    Task(f"encode {origin.name} {number}", encode_part, arguments, inputs + own, [folder], asked)
                )
                folders.append((origin.name, folder))
        encoded: dict[str, list[Part]] = {origin.name: [] for origin in origins}
        results = self._workers.run(tasks, self._work / "encode", "pack: encode")
        for (name, folder), result in zip(folders, results, strict=True):
            encoded[name].append((folder, result))
        return encoded

    def _pieces(self, origin: Origin) -> list[list[Piece]]:
        pieces = [Piece(**piece) for found in origin.surveyed.values() for piece in found["pieces"]]
        # "The first rows" are known only to who reads a source in order.
        return [pieces] if origin.source.limit is not None else groups(pieces, self._settings.task_bytes)

    def _merge(self, origins: Sequence[Origin], encoded: dict[str, list[Part]]) -> None:
        tasks, places = [], []
        for origin in origins:
            for split in SPLITS:
                parts = [(folder, result[split]) for folder, result in encoded[origin.name]]
                runs, names = _runs(parts)
                inputs = [Path(run["file"]) for run in runs]
                shards = -(-sum(result["tally"]["tokens"] for _, result in parts) // self._settings.shard_tokens)
                folder = self._made(origin) / split
                places.append((folder, names, shards))
                for number in range(shards):
                    path = folder / shard_name(number)
                    arguments = {"runs": runs, "number": number, "shards": shards, "out": str(path)}
                    tasks.append(Task(f"merge {origin.name} {split} {number}", merge_shard, arguments, inputs, [path]))
        entries = iter(self._workers.run(tasks, self._work / "merge", "pack: merge"))
        for folder, names, shards in places:
            write_token_set(
                folder,
                [next(entries) for _ in range(shards)],
                unit=self._encoder.settings.unit,
                spelling=self._encoder.spelling,
                tokenizer=self._encoder.tokenizer.fingerprint,
                template=self._encoder.fingerprint,
                **names,
            )

    def _content(self, origin: Origin, parts: list[Part]) -> dict[str, Any]:
        """What the set's manifest says."""
        counts = Counts()
        for _, result in parts:
            counts.merge(Counts.from_dict(result["counts"]))
        tallies = {split: added([result[split]["tally"] for _, result in parts]) for split in SPLITS}
        return {
            "source": origin.name,
            "unit": self._encoder.settings.unit,
            "tokenizer": self._encoder.tokenizer.fingerprint,
            "template": self._encoder.fingerprint,
            "tokens": sum(tally["tokens"] for tally in tallies.values()),
            "counts": counts.as_dict(),
            "encoders": sorted({result["encoder"] for _, result in parts}),
            **tallies,
        }


def check_rows(origin: Origin, content: dict[str, Any]) -> None:
    """Raises UserError for a source with too large a share of unusable rows, and for one that gives nothing.

    `content` is the manifest of its set.
    """
    source, counts = origin.source, Counts.from_dict(content["counts"])
    bad = [reason for reason in counts if reason.startswith("bad: ")]
    number = sum(counts[reason] for reason in bad)
    if number > source.max_bad_share * counts["rows"]:
        raise UserError(
            f"{number} of {counts['rows']} rows cannot be used: {', '.join(bad)}",
            where=source.path,
            do=f"mend the source, name its adapter, or raise max_bad_share (now {source.max_bad_share:g})",
        )
    if not any(content[split]["examples"] for split in SPLITS):
        reasons = ", ".join(f"{reason}: {counts[reason]}" for reason in counts) or "no rows"
        raise UserError(
            f"source {origin.name} gives nothing to train on ({reasons})",
            where=source.path,
            do="name a source with rows of this kind, or change what these settings leave out (where, limit, length)",
        )


def added(tallies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The totals of several tallies: numbers add up, but for the longest."""
    total: dict[str, Any] = {}
    for tally in tallies:
        for name, value in tally.items():
            if isinstance(value, dict):
                total[name] = dict(Counter(total.get(name, {})) + Counter(value))
            else:
                total[name] = max(total.get(name, 0), value) if name == "longest" else total.get(name, 0) + value
    return total


def _runs(parts: Sequence[tuple[Path, dict[str, Any]]]) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """The runs of all parts with their names numbered alike, and these names."""
    sources = sorted({source for _, result in parts for source in result["sources"]})
    labels = sorted({tuple(label) for _, result in parts for label in result["labels"]})
    scores = sorted({name for _, result in parts for run in result["runs"] for name in run["scores"]})[:MOST]
    columns = {name: number for number, name in enumerate(scores)}
    runs = [
        {
            "file": str(folder / run["file"]),
            "sources": [sources.index(source) for source in result["sources"]],
            "labels": [labels.index(tuple(label)) for label in result["labels"]],
            "scores": [columns.get(name, len(scores)) for name in run["scores"]],
            "width": len(scores),
        }
        for folder, result in parts
        for run in result["runs"]
    ]
    return runs, {"sources": sources, "labels": labels, "scores": scores}


def _tell_slow_encoding(encoders: Sequence[str]) -> None:
    """Says why, where much text was encoded by the slow library."""
    for name in encoders:
        if name.startswith("tokenizers") and name != LITTLE:
            Console(stderr=True, highlight=False).print(f"pack: encoded by {name}", style="yellow")
