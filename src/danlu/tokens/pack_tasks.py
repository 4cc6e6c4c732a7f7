"""The tasks that packing is made of: encoding parts of a source, then merging what they wrote into shards.

Neither torch nor transformers is imported here: a worker starts in a fraction of a second.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_folder
from danlu.text.holdout import is_held_out
from danlu.text.readers import Piece
from danlu.text.records import Conversation, Document, Preference, Record, content_hash
from danlu.text.settings import Kind, SourceSettings
from danlu.text.source import read_pieces
from danlu.tokens.columns import Columns
from danlu.tokens.encode import Encoded, Role, encode_document, terminator_id
from danlu.tokens.labels import labels_of, numbers_of, score_columns
from danlu.tokens.order import mix64
from danlu.tokens.shards import BAD, GOOD, SPLITS, token_dtype, write_shard
from danlu.tokens.spelling import Spelling
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.turns import limited, prompted

RUN_TOKENS = 1 << 23
RUN_DOCUMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Encoding:
    """How records become tokens; plain values, so that a task can be written down.

    Nothing of the row's length, packing, order or mix is here: what is encoded serves all of them.
    """

    tokenizer: str
    """Folder."""
    unit: str
    """document, conversation, pair or labelled."""
    turns: str
    held_out: float
    system: str
    template: str | None
    terminator: str | None
    loss_on: str = "assistant"
    """Roles, with a space between."""
    prompts: str = "[]"
    """System prompts as JSON, {"text", "share", "where"} each."""
    own_system: str = "keep"
    max_source_length: int | None = None
    max_target_length: int | None = None


def encode_part(
    source: dict[str, Any], kind: Kind, pieces: list[dict[str, Any]], encoding: dict[str, Any], out: str
) -> dict[str, Any]:
    """Encodes pieces of a source's files into runs under `out`: shards whose documents are in the order of scattering.

    Gives {"counts", "encoder", "train": {"runs", ...}, "held_out": {"runs", ...}}.
    """
    # Whether too many rows are bad is a question to the whole source, so it is asked after all tasks.
    settings = SourceSettings(**{**source, "max_bad_share": 1.0})
    counts, encoder = Counts(), _encoder(Encoding(**encoding), _files(Path(encoding["tokenizer"])))
    with atomic_folder(Path(out), replace=True) as folder:
        splits = {split: _Runs(folder, split, encoder.dtype) for split in SPLITS}
        for record, neighbour in _neighbours(read_pieces(settings, kind, [Piece(**piece) for piece in pieces], counts)):
            digest = content_hash(record)
            split = splits["held_out" if is_held_out(digest, encoder.settings.held_out) else "train"]
            for example in encoder.encode(record, counts, neighbour):
                split.tally.add(example.documents)
                split.add(example, record, digest)
        found = {"counts": counts.as_dict(), "encoder": encoder.tokenizer.encoder_name}
        return found | {name: split.finish() for name, split in splits.items()}


def merge_shard(runs: list[dict[str, Any]], number: int, shards: int, out: str) -> dict[str, Any]:
    """Writes shard `number` of `shards`: from every run the documents that scatter there.

    A run is {"file", and "sources", "labels", "scores", "width" as `Columns.renumbered` takes them}. A document's
    place depends on what it says alone, so a shard is a uniform sample of its source. Gives the entry for the manifest.
    """
    edges = [(edge << 64) // shards for edge in (number, number + 1)]
    parts = []
    for run in runs:
        columns = Columns.open(Path(run["file"]))
        start, end = (bisect_left(columns.hash, edge, key=_scattered) for edge in edges)
        numbers = [run[name] for name in ("sources", "labels", "scores", "width")]
        parts.append(columns.slice(start, end).renumbered(*numbers))
    joined = Columns.join(parts)
    order = np.argsort(mix64(joined.hash), kind="stable")
    return write_shard(Path(out), joined.take(order))


def _scattered(digest: np.uint64) -> int:
    return int(mix64(np.array([digest]))[0])


class Coded(NamedTuple):
    """An example, and the labels that it has beside its record's tags."""

    documents: list[Encoded]
    labels: tuple[str, ...] = ()


def _neighbours(records: Iterable[Record]) -> Iterator[tuple[Record, Record]]:
    """Each record with the one before it, the first with the last."""
    first = before = None
    for record in records:
        if before is None:
            first = record
        else:
            yield record, before
        before = record
    if first is not None and before is not None:
        yield first, before


class Encoder:
    """Records to the documents of examples."""

    def __init__(self, settings: Encoding) -> None:
        self.settings = settings
        self.tokenizer = Tokenizer.load(Path(settings.tokenizer))
        self.spelling = Spelling.of(self.tokenizer)
        self.dtype = token_dtype(len(self.spelling))
        plain = settings.unit == "document"
        self.template = None if plain else Template(self.tokenizer, settings.system, settings.template)
        self._prompts = json.loads(settings.prompts)
        self.end = terminator_id(self.tokenizer, settings.terminator) if plain else -1

    @property
    def fingerprint(self) -> str:
        """Of all that decides the tokens beside the tokenizer."""
        return self.template.fingerprint if self.template else f"document ends in {self.end}"

    @property
    def dated(self) -> bool:
        """Whether the tokens depend on the day, since the template writes it."""
        return self.template is not None and "strftime_now" in self.template.source

    def encode(self, record: Record, counts: Counts, neighbour: Record) -> Iterator[Coded]:
        """The examples of a record; records that give none are counted. For the unit labelled an example's second
        document is its prompt with an answer of `neighbour`.
        """
        where = str(record.meta.get("origin", record.source))
        try:
            found = self._examples(record, counts, where, neighbour)
        except UserError as error:
            counts.add(f"not encoded: {error.what}", where)
            return
        if not found:
            counts.add("not encoded: nothing in it is in the loss", where)
        yield from found

    def _examples(self, record: Record, counts: Counts, where: str, neighbour: Record) -> list[Coded]:
        match record:
            case Document():
                return [Coded([encode_document(self.tokenizer, record, self.end)])] if record.text else []
            case Conversation():
                assert self.template
                record = cast(Conversation, prompted(record, self._prompts, self.settings.own_system))
                roles = self.settings.loss_on.split()
                encoded = self.template.encode(record, self.settings.turns, counts, where, roles)
                return [Coded([self._shaped(found, counts, where)]) for found in encoded]
            case Preference() if self.settings.unit == "labelled" and isinstance(neighbour, Preference):
                record = cast(Preference, prompted(record, self._prompts, self.settings.own_system))
                return self._labelled(record, neighbour, counts, where)
            case Preference():
                assert self.template
                record = cast(Preference, prompted(record, self._prompts, self.settings.own_system))
                sides = self.template.encode_preference(record)
                return [Coded([self._shaped(side, counts, where) for side in sides])]

    def _shaped(self, document: Encoded, counts: Counts, where: str) -> Encoded:
        """With the most tokens that turns may have."""
        settings = self.settings
        if settings.max_source_length is not None or settings.max_target_length is not None:
            lengths = settings.max_source_length, settings.max_target_length
            document, done = limited(document, *lengths, self.tokenizer.token_bytes)
            for what in done:
                counts.add(what, where)
        return document

    def _labelled(self, record: Preference, neighbour: Preference, counts: Counts, where: str) -> list[Coded]:
        assert self.template
        if neighbour.messages == record.messages and (neighbour.chosen, neighbour.rejected) == (
            record.chosen,
            record.rejected,
        ):
            raise UserError("no other answer beside this one, and KTO compares with answers to other prompts")
        others = [side for side in (neighbour.chosen, neighbour.rejected) if side]
        found = []
        for number, (label, side) in enumerate(((GOOD, record.chosen), (BAD, record.rejected))):
            if side:
                answers = (side, others[min(number, len(others) - 1)])
                encoded = [self.template.encode_answer(record.messages, each) for each in answers]
                found.append(Coded([self._shaped(each, counts, where) for each in encoded], (label,)))
        return found


@lru_cache(maxsize=1)
def _encoder(encoding: Encoding, files: tuple[tuple[str, int, int], ...]) -> Encoder:
    """The encoder of a process, made once for all its parts while the tokenizer's `files` stay as they are."""
    return Encoder(encoding)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((path, path.stat()) for path in sorted(folder.iterdir()) if path.suffix != ".safetensors")
    return tuple((path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found)


@dataclass(slots=True)
class Tally:
    """Totals over examples, uncut."""

    examples: int = 0
    documents: int = 0
    tokens: int = 0
    tokens_in_loss: int = 0
    longest: int = 0
    tokens_by_role: Counter[str] = field(default_factory=Counter)
    tokens_in_loss_by_role: Counter[str] = field(default_factory=Counter)

    def add(self, documents: list[Encoded]) -> None:
        self.examples += 1
        for document in documents:
            self.documents += 1
            self.tokens += len(document)
            self.longest = max(self.longest, len(document))
            roles = _roles(document)
            for counter, some in (
                (self.tokens_by_role, roles),
                (self.tokens_in_loss_by_role, roles[document.weights != 0]),
            ):
                counter.update({Role(role).name.lower(): int(n) for role, n in enumerate(np.bincount(some)) if n})
            self.tokens_in_loss += int(np.count_nonzero(document.weights))

    def as_dict(self) -> dict[str, Any]:
        values = {of.name: getattr(self, of.name) for of in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


def _roles(document: Encoded) -> np.ndarray:
    """uint8 [n]: the role that each token belongs to; plain text has none."""
    if not len(document.piece_roles):
        return np.full(len(document), Role.NONE, np.uint8)
    return np.repeat(document.piece_roles, document.piece_ends - document.piece_starts)


class _Runs:
    """Documents of one split, written as runs before they fill memory."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype) -> None:
        self.tally = Tally()
        self._folder, self._split, self._dtype = folder, split, dtype
        self._sources: dict[str, int] = {}
        self._labels: dict[tuple[str, ...], int] = {}
        self._waiting: list[tuple[Encoded, int, int, int, dict[str, float]]] = []
        self._tokens, self._runs = 0, list[dict[str, Any]]()

    def add(self, example: Coded, record: Record, digest: int) -> None:
        number, documents = self._sources.setdefault(record.source, len(self._sources)), example.documents
        labels = labels_of(record.meta) + example.labels
        label = self._labels.setdefault(labels, len(self._labels)) if labels else -1
        numbers = numbers_of(record.meta)
        self._waiting += [(document, number, digest, label, numbers) for document in documents]
        self._tokens += sum(map(len, documents))
        if self._tokens >= RUN_TOKENS or len(self._waiting) >= RUN_DOCUMENTS:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """{"runs": [{"file", "scores": names}], "sources", "labels": names} and the tally."""
        if self._waiting:
            self._flush()
        return {
            "runs": self._runs,
            "sources": list(self._sources),
            "labels": [list(labels) for labels in self._labels],
            "tally": self.tally.as_dict(),
        }

    def _flush(self) -> None:
        documents, sources, hashes, labels, numbers = zip(*self._waiting, strict=True)
        names, scores = score_columns(numbers)
        columns = Columns.of(
            documents, sources, hashes, self._dtype, labels if self._labels else None, scores if names else None
        )
        file = f"{self._split}-{len(self._runs):05d}.safetensors"
        columns.take(np.argsort(mix64(columns.hash), kind="stable")).write(self._folder / file)
        self._runs.append({"file": file, "scores": names})
        self._waiting, self._tokens = [], 0
