"""The pack stage: records to token sets, by tasks that run in a process pool and are recorded as they finish."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import fingerprint
from danlu.ledger.manifest import NAME, read_manifest, write_manifest
from danlu.ledger.tasks import Task, run_tasks
from danlu.text.files import source_files, source_name
from danlu.text.readers import Piece
from danlu.text.settings import Kind, SourceSettings
from danlu.text.survey import groups, survey
from danlu.tokens.pack_tasks import SPLITS, Encoder, Encoding, encode_part, merge_shard
from danlu.tokens.settings import DataSettings
from danlu.tokens.shards import TokenSet, shard_name, write_token_set
from danlu.tokens.stream import Stream
from danlu.tokens.tokenizer import LITTLE

Stage = Literal["pretrain", "sft", "dpo"]
_KINDS: dict[str, Kind] = {"pretrain": "document", "sft": "conversation", "dpo": "preference"}


def pack(
    settings: DataSettings,
    tokenizer: Path,
    stage: Stage,
    out: Path,
    *,
    system: str = "default",
    template: str | None = None,
    terminator: str | None = None,
) -> dict[str, Any]:
    """Encodes all sources into token sets out/train/SOURCE and out/held_out/SOURCE; gives the manifest it writes.

    `tokenizer` is its folder; `system` and `template` are the Template's, `terminator` is the token that ends a
    document (null: the tokenizer's end token). The manifest has totals, tokens in the loss by role, what cutting to
    the length will do, and every row that was left out, by reason. Interrupted anywhere, the same call goes on from
    there; with nothing changed it does nothing.
    Raises UserError for sources that give nothing, share a name, or have too many unusable rows, and for a tokenizer
    that lacks a template or end token.
    """
    encoding = Encoding(
        tokenizer=str(tokenizer),
        unit=settings.unit(stage),
        length=settings.length,
        turns=settings.turns,
        overlong=settings.overlong,
        answer_budget=settings.answer_budget or settings.length // 2,
        held_out=settings.held_out,
        system=system,
        template=template,
        terminator=terminator,
    )
    return _Packing(settings, encoding, _KINDS[stage], out).run()


def open_stream(
    packed: Path,
    settings: DataSettings,
    stage: Stage,
    *,
    split: Literal["train", "held_out"] = "train",
    **more: Any,
) -> Stream:
    """The stream over what `pack` wrote to `packed`; `more` are further arguments of Stream (seed, epochs, skip, ...).

    Sources without a record in the split are left out. Raises UserError when none has any.
    """
    sets = [
        (TokenSet.open(packed / split / name), source.weight)
        for name, source in zip(folder_names(settings.sources), settings.sources, strict=True)
    ]
    filled = [(token_set, weight if split == "train" else 1.0) for token_set, weight in sets if len(token_set)]
    return Stream(
        filled or sets,
        length=settings.length,
        unit=settings.unit(stage),
        pack=settings.pack,
        isolate=settings.isolate,
        overlong=settings.overlong,
        answer_budget=settings.answer_budget,
        **more,
    )


def folder_names(sources: list[SourceSettings]) -> list[str]:
    """The folder of each source's token sets. Raises UserError when two are the same."""
    names = [re.sub(r"[^\w.-]+", "_", source_name(source)).strip(".") or "source" for source in sources]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two sources are called {twice[0]}", do="give each a `name` of its own")
    return names


class _Packing:
    def __init__(self, settings: DataSettings, encoding: Encoding, kind: Kind, out: Path) -> None:
        self.settings, self.encoding, self.kind, self.out = settings, encoding, kind, out
        self.names = folder_names(settings.sources)
        self.encoder = Encoder(encoding)
        self.left_out = Counts()

    def run(self) -> dict[str, Any]:
        files = [source_files(source, self.kind, self.left_out) for source in self.settings.sources]
        surveyed = self._survey([file for of_source in files for file in of_source])
        key = fingerprint(
            [
                self.settings.model_dump(exclude={"workers"}),
                asdict(self.encoding),
                self.encoder.tokenizer.fingerprint,
                self.encoder.fingerprint,
                [[surveyed[file]["sha256"] for file in of_source] for of_source in files],
            ]
        )
        manifest = read_manifest(self.out)
        if manifest and manifest.get("key") == key:
            return manifest
        (self.out / NAME).unlink(missing_ok=True)
        parts = {
            name: self._pieces(source, of_source, surveyed)
            for name, source, of_source in zip(self.names, self.settings.sources, files, strict=True)
        }
        encoded = self._encode(parts)
        self._tell_slow_encoding(encoded)
        self._check_rows(encoded)
        self._merge(encoded)
        for folder in ("runs", "tasks/merge"):
            shutil.rmtree(self.out / folder)
        return self._write_manifest(key, encoded, surveyed)

    def _survey(self, files: list[Path]) -> dict[Path, dict[str, Any]]:
        unique, size = list(dict.fromkeys(files)), self.settings.task_bytes
        tasks = [Task(f"survey {file}", survey, {"file": str(file), "piece_bytes": size}, [file]) for file in unique]
        return dict(zip(unique, self._run(tasks, "survey"), strict=True))

    def _pieces(self, source: SourceSettings, files: list[Path], surveyed: dict[Path, Any]) -> list[list[Piece]]:
        pieces = [Piece(**piece) for file in files for piece in surveyed[file]["pieces"]]
        # "The first rows" are known only to who reads a source in order.
        return [pieces] if source.limit is not None else groups(pieces, self.settings.task_bytes)

    def _encode(self, parts: dict[str, list[list[Piece]]]) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
        """For each source, its runs' folders with what `encode_part` gave."""
        tasks, folders = [], []
        for (name, of_source), source in zip(parts.items(), self.settings.sources, strict=True):
            for number, pieces in enumerate(of_source):
                folder = self.out / "runs" / name / f"part-{number:05d}"
                arguments = {
                    "source": source.model_dump(),
                    "kind": self.kind,
                    "pieces": [asdict(piece) for piece in pieces],
                    "encoding": asdict(self.encoding),
                    "out": str(folder),
                }
                inputs = [Path(file) for file in dict.fromkeys(piece.file for piece in pieces)]
                inputs += sorted(
                    path for path in Path(self.encoding.tokenizer).iterdir() if path.suffix != ".safetensors"
                )
                tasks.append(Task(f"encode {name} {number}", encode_part, arguments, inputs, [folder]))
                folders.append((name, folder))
        encoded: dict[str, list[tuple[Path, dict[str, Any]]]] = {name: [] for name in parts}
        for (name, folder), result in zip(folders, self._run(tasks, "encode"), strict=True):
            encoded[name].append((folder, result))
        return encoded

    def _tell_slow_encoding(self, encoded: dict[str, list[tuple[Path, dict[str, Any]]]]) -> None:
        """Says why, where much text was encoded by the slow library."""
        for name in _encoders(encoded):
            if name.startswith("tokenizers") and name != LITTLE:
                Console(stderr=True, highlight=False).print(f"pack: encoded by {name}", style="yellow")

    def _merge(self, encoded: dict[str, list[tuple[Path, dict[str, Any]]]]) -> None:
        for split in SPLITS:
            for stale in (self.out / split).glob(f"*/{NAME}"):
                stale.unlink()
        tasks, places = [], []
        for name, parts in encoded.items():
            for split in SPLITS:
                results = [(folder, result[split]) for folder, result in parts]
                sources = sorted({source for _, result in results for source in result["sources"]})
                runs = [
                    {
                        "file": str(folder / file),
                        "sources": [sources.index(source) for source in result["sources"]],
                    }
                    for folder, result in results
                    for file in result["runs"]
                ]
                inputs = [folder / file for folder, result in results for file in result["runs"]]
                tokens = sum(result["tally"]["tokens"] for _, result in results)
                shards = -(-tokens // self.settings.shard_tokens)
                places.append((split, name, sources, shards))
                for number in range(shards):
                    path = self.out / split / name / shard_name(number)
                    arguments = {"runs": runs, "number": number, "shards": shards, "out": str(path)}
                    tasks.append(Task(f"merge {split} {name} {number}", merge_shard, arguments, inputs, [path]))
        entries = iter(self._run(tasks, "merge"))
        self._remove_stale({path for task in tasks for path in task.outputs})
        for split, name, sources, shards in places:
            write_token_set(
                self.out / split / name,
                [next(entries) for _ in range(shards)],
                unit=self.encoding.unit,
                spelling=self.encoder.spelling,
                tokenizer=self.encoder.tokenizer.fingerprint,
                template=self.encoder.fingerprint,
                sources=sources,
            )

    def _remove_stale(self, shards: set[Path]) -> None:
        """Removes what an earlier call with other settings wrote."""
        for split in SPLITS:
            for folder in (self.out / split).glob("*"):
                for file in folder.iterdir():
                    if file not in shards:
                        file.unlink()
                if folder.name not in self.names:
                    folder.rmdir()

    def _check_rows(self, encoded: dict[str, list[tuple[Path, dict[str, Any]]]]) -> None:
        """Raises UserError for a source with too large a share of unusable rows, and when nothing is left."""
        for source, (name, parts) in zip(self.settings.sources, encoded.items(), strict=True):
            counts = _counts(parts)
            bad = [reason for reason in counts if reason.startswith("bad: ")]
            number = sum(counts[reason] for reason in bad)
            if number > source.max_bad_share * counts["rows"]:
                raise UserError(
                    f"{number} of {counts['rows']} rows cannot be used: {', '.join(bad)}",
                    where=source.path,
                    do=f"mend the source, name its adapter, or raise max_bad_share (now {source.max_bad_share:g})",
                )
            if not any(result[split]["tally"]["examples"] for _, result in parts for split in SPLITS):
                reasons = ", ".join(f"{reason}: {counts[reason]}" for reason in counts)
                raise UserError(f"source {name} gives no {self.kind} to train on ({reasons})", where=source.path)

    def _write_manifest(
        self, key: str, encoded: dict[str, list[tuple[Path, dict[str, Any]]]], surveyed: dict[Path, Any]
    ) -> dict[str, Any]:
        sources = {
            name: {"counts": _counts(parts).as_dict(), **{split: _tally(parts, split) for split in SPLITS}}
            for name, parts in encoded.items()
        }
        everything = [part for parts in encoded.values() for part in parts]
        totals = _tally(everything, "train")
        content = {
            "stage": "pack",
            "key": key,
            "unit": self.encoding.unit,
            "tokens": totals["tokens"],
            "examples": totals["examples"],
            **{split: _tally(everything, split) for split in SPLITS},
            "sources": sources,
            "left_out": self.left_out.as_dict(),
            "tokenizer": self.encoder.tokenizer.fingerprint,
            "encoders": _encoders(encoded),
            "template": self.encoder.fingerprint,
            "settings": self.settings.model_dump(),
            "encoding": asdict(self.encoding),
            "inputs": [
                {"file": str(file), "sha256": found["sha256"], "bytes": found["bytes"]}
                for file, found in surveyed.items()
            ],
        }
        write_manifest(self.out, content)
        return content

    def _run(self, tasks: list[Task], title: str) -> list[Any]:
        return run_tasks(tasks, self.out / "tasks" / title, workers=self.settings.workers, title=f"pack: {title}")


def _encoders(encoded: dict[str, list[tuple[Path, dict[str, Any]]]]) -> list[str]:
    """The libraries that encoded the parts."""
    return sorted({result["encoder"] for parts in encoded.values() for _, result in parts})


def _counts(parts: list[tuple[Path, dict[str, Any]]]) -> Counts:
    counts = Counts()
    for _, result in parts:
        counts.merge(Counts.from_dict(result["counts"]))
    return counts


def _tally(parts: list[tuple[Path, dict[str, Any]]], split: str) -> dict[str, Any]:
    """The totals of all parts: numbers add up, but for the longest."""
    total: dict[str, Any] = {}
    for _, result in parts:
        for name, value in result[split]["tally"].items():
            if isinstance(value, dict):
                total[name] = dict(Counter(total.get(name, {})) + Counter(value))
            else:
                total[name] = max(total.get(name, 0), value) if name == "longest" else total.get(name, 0) + value
    return total
