"""The tasks that packing is made of: encoding parts of a source, then merging what they wrote into shards.

Neither torch nor transformers is imported here: a worker starts in a fraction of a second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

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
from danlu.tokens.cut import cut
from danlu.tokens.encode import Encoded, Role, encode_document, terminator_id
from danlu.tokens.order import mix64
from danlu.tokens.shards import token_dtype, write_shard
from danlu.tokens.spelling import Spelling
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

SPLITS = ("train", "held_out")
RUN_TOKENS = 1 << 23
RUN_DOCUMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Encoding:
    """How records become tokens; plain values, so that a task can be written down."""

    tokenizer: str
    """Folder."""
    unit: str
    length: int
    turns: str
    overlong: Any
    answer_budget: int
    held_out: float
    system: str
    template: str | None
    terminator: str | None


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
        for record in read_pieces(settings, kind, [Piece(**piece) for piece in pieces], counts):
            digest = content_hash(record)
            split = splits["held_out" if is_held_out(digest, encoder.settings.held_out) else "train"]
            for documents in encoder.encode(record, counts):
                split.tally.add(documents, encoder)
                split.add(documents, record.source, digest)
        found = {"counts": counts.as_dict(), "encoder": encoder.tokenizer.encoder_name}
        return found | {name: split.finish() for name, split in splits.items()}


def merge_shard(runs: list[dict[str, Any]], number: int, shards: int, out: str) -> dict[str, Any]:
    """Writes shard `number` of `shards`: from every run ({"file", "sources"}) the documents that scatter there.

    A document's place depends on what it says alone, so a shard is a uniform sample of its source. Gives the entry
    for the manifest.
    """
    edges = [(edge << 64) // shards for edge in (number, number + 1)]
    parts = []
    for run in runs:
        columns = Columns.open(Path(run["file"]))
        start, end = (bisect_left(columns.hash, edge, key=_scattered) for edge in edges)
        parts.append(columns.slice(start, end).with_sources(np.array(run["sources"], np.int32)))
    joined = Columns.join(parts)
    order = np.argsort(mix64(joined.hash), kind="stable")
    return write_shard(Path(out), joined.take(order))


def _scattered(digest: np.uint64) -> int:
    return int(mix64(np.array([digest]))[0])


class Encoder:
    """Records to the documents of examples."""

    def __init__(self, settings: Encoding) -> None:
        self.settings = settings
        self.tokenizer = Tokenizer.load(Path(settings.tokenizer))
        self.spelling = Spelling.of(self.tokenizer)
        self.dtype = token_dtype(len(self.spelling))
        plain = settings.unit in ("window", "document")
        self.template = None if plain else Template(self.tokenizer, settings.system, settings.template)
        self.end = terminator_id(self.tokenizer, settings.terminator) if plain else -1

    @property
    def fingerprint(self) -> str:
        """Of all that decides the tokens beside the tokenizer."""
        return self.template.fingerprint if self.template else f"document ends in {self.end}"

    def encode(self, record: Record, counts: Counts) -> Iterator[list[Encoded]]:
        """The examples of a record, one document each or two for a pair; records that give none are counted."""
        where = str(record.meta.get("origin", record.source))
        try:
            found = self._examples(record, counts, where)
        except UserError as error:
            counts.add(f"not encoded: {error.what}", where)
            return
        if not found:
            counts.add("not encoded: nothing in it is in the loss", where)
        yield from found

    def _examples(self, record: Record, counts: Counts, where: str) -> list[list[Encoded]]:
        match record:
            case Document():
                return [[encode_document(self.tokenizer, record, self.end)]] if record.text else []
            case Conversation():
                assert self.template
                return [[found] for found in self.template.encode(record, self.settings.turns, counts, where)]
            case Preference():
                assert self.template
                return [list(self.template.encode_preference(record))]

    def cut_reason(self, documents: list[Encoded]) -> str | None:
        """What cutting to the length will do to an example; documents of plain text are never cut."""
        settings = self.settings
        if self.template is None or max(map(len, documents)) <= settings.length:
            return None
        token_bytes = self.spelling.token_bytes
        return cut(documents, settings.length, settings.overlong, settings.answer_budget, token_bytes).reason


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
    cuts: Counter[str] = field(default_factory=Counter)

    def add(self, documents: list[Encoded], encoder: Encoder) -> None:
        self.examples += 1
        self.cuts.update(reason for reason in [encoder.cut_reason(documents)] if reason)
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
        self._waiting: list[tuple[Encoded, int, int]] = []
        self._tokens, self._runs = 0, 0

    def add(self, documents: list[Encoded], source: str, digest: int) -> None:
        number = self._sources.setdefault(source, len(self._sources))
        self._waiting += [(document, number, digest) for document in documents]
        self._tokens += sum(map(len, documents))
        if self._tokens >= RUN_TOKENS or len(self._waiting) >= RUN_DOCUMENTS:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """{"runs": file names, "sources": names} and the tally."""
        if self._waiting:
            self._flush()
        names = [self._name(number) for number in range(self._runs)]
        return {"runs": names, "sources": list(self._sources), "tally": self.tally.as_dict()}

    def _flush(self) -> None:
        documents, sources, hashes = zip(*self._waiting, strict=True)
        columns = Columns.of(documents, sources, hashes, self._dtype)
        columns.take(np.argsort(mix64(columns.hash), kind="stable")).write(self._folder / self._name(self._runs))
        self._waiting, self._tokens, self._runs = [], 0, self._runs + 1

    def _name(self, number: int) -> str:
        return f"{self._split}-{number:05d}.safetensors"
