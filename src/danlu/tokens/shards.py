"""Token sets on disk: a folder of shards with a manifest, addressed by content, shared by ranks and runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np

from danlu.ledger.errors import UserError
from danlu.ledger.files import fingerprint, sha256_file
from danlu.ledger.manifest import read_manifest, write_manifest
from danlu.tokens.columns import Columns
from danlu.tokens.encode import Encoded
from danlu.tokens.spelling import Spelling

SHARD_TOKENS = 1 << 25
SPLITS = ("train", "held_out")
DOCUMENTS = {"window": 1, "document": 1, "conversation": 1, "pair": 2, "labelled": 2}
"""Units, and how many documents an example of each has."""
GOOD, BAD = "answer=good", "answer=bad"
"""Labels of examples of unit labelled."""
SPANS = tuple(1 << power for power in range(4, 18))
"""Lengths for which a shard's manifest entry states the most documents that begin within so many tokens."""
_SPELLING = "vocabulary.safetensors"


@dataclass(frozen=True, slots=True)
class Example:
    """One document or conversation, or two: a pair's chosen and rejected one, or for the unit labelled an answer and
    another to the same prompt that was given to something else; `source` is its row's origin.
    """

    documents: list[Encoded]
    source: str
    hash: int
    labels: tuple[str, ...] = ()
    """The tags of its record, such as "age=25-34"."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of one shard."""

    file: str
    sha256: str
    documents: int
    tokens: int
    crowding: list[int]
    """For each of `SPANS`, the most documents that begin within so many tokens."""

    def most_documents(self, length: int) -> int:
        """A bound on the documents in any window of `length` tokens."""
        span = next((number for number, span in enumerate(SPANS) if span >= length), len(SPANS) - 1)
        return 1 + self.crowding[span] * -(-length // SPANS[span])


def token_dtype(vocabulary: int) -> np.dtype:
    """The smallest dtype of the two that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def write_shard(path: Path, columns: Columns) -> dict[str, Any]:
    """Writes one shard, whole or not at all; gives its entry in the manifest."""
    columns.write(path)
    starts = columns.document_offsets[:-1]
    crowding = [int((np.searchsorted(starts, starts + span) - np.arange(len(starts))).max(initial=0)) for span in SPANS]
    return {
        "file": path.name,
        "sha256": sha256_file(path),
        "documents": len(columns),
        "tokens": len(columns.tokens),
        "crowding": crowding,
    }


def write_token_set(
    folder: Path,
    entries: Sequence[dict[str, Any]],
    *,
    unit: str,
    spelling: Spelling,
    tokenizer: str,
    template: str,
    sources: Sequence[str],
    labels: Sequence[Sequence[str]] = (),
    scores: Sequence[str] = (),
) -> None:
    """Completes a folder of shards: the spelling of the vocabulary, then the manifest, which makes it a token set.

    `tokenizer` and `template` are fingerprints; `sources`, `labels` and `scores` are what the shards' columns number.
    """
    spelling.write(folder / _SPELLING)
    documents = sum(entry["documents"] for entry in entries)
    shards = [entry["sha256"] for entry in entries]
    content = {
        "unit": unit,
        "dtype": token_dtype(len(spelling)).name,
        "vocabulary": len(spelling),
        "tokens": sum(entry["tokens"] for entry in entries),
        "documents": documents,
        "examples": documents // DOCUMENTS[unit],
        "tokenizer": tokenizer,
        "template": template,
        "fingerprint": fingerprint([unit, tokenizer, template, list(sources), shards]),
        "sources": list(sources),
        "labels": [list(label) for label in labels],
        "scores": list(scores),
        "shards": list(entries),
    }
    write_manifest(folder, content)


class TokenSetWriter:
    """Writes a token set from examples in the order they come; used as a context, it completes the set at the end.

    Examples lie in shards of at most about `shard_tokens` tokens. A broken-off folder has no manifest.
    """

    def __init__(
        self,
        folder: Path,
        unit: str,
        spelling: Spelling,
        *,
        tokenizer: str,
        template: str = "",
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        self.folder, self.unit, self.spelling = folder, unit, spelling
        self.tokenizer, self.template, self.shard_tokens = tokenizer, template, shard_tokens
        self._entries: list[dict[str, Any]] = []
        self._sources: dict[str, int] = {}
        self._labels: dict[tuple[str, ...], int] = {}
        self._waiting: list[tuple[Encoded, int, int, int]] = []
        self._tokens = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, example: Example) -> None:
        """Adds one example."""
        if len(example.documents) != DOCUMENTS[self.unit]:
            raise ValueError(f"an example of unit {self.unit} cannot have {len(example.documents)} documents")
        source = self._sources.setdefault(example.source, len(self._sources))
        label = self._labels.setdefault(example.labels, len(self._labels))
        size = sum(len(document.tokens) for document in example.documents)
        if self._waiting and self._tokens + size > self.shard_tokens:
            self._flush()
        self._waiting += [(document, source, example.hash, label) for document in example.documents]
        self._tokens += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if self._waiting:
            self._flush()
        write_token_set(
            self.folder,
            self._entries,
            unit=self.unit,
            spelling=self.spelling,
            tokenizer=self.tokenizer,
            template=self.template,
            sources=list(self._sources),
            labels=list(self._labels),
        )

    def _flush(self) -> None:
        documents, sources, hashes, labels = zip(*self._waiting, strict=True)
        columns = Columns.of(documents, sources, hashes, token_dtype(len(self.spelling)), labels)
        self._entries.append(write_shard(self.folder / shard_name(len(self._entries)), columns))
        self._waiting, self._tokens = [], 0


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


class TokenSet:
    """A token set that is read in place: at most `held` shards are mapped at a time, whatever the set weighs."""

    def __init__(self, folder: Path, manifest: dict[str, Any], name: str | None = None, held: int = 2) -> None:
        self.folder, self.manifest = folder, manifest
        self.unit: str = manifest["unit"]
        self.name = name or folder.name
        self.fingerprint: str = manifest["fingerprint"]
        self.shards = [Entry(**entry) for entry in manifest["shards"]]
        self._first = [0, *accumulate(entry.documents for entry in self.shards)]
        self._checked: set[int] = set()
        self.shard = lru_cache(maxsize=held)(self._open_shard)
        """`shard(number)` gives the Columns of a shard, its checksum verified when it is first opened."""

    @classmethod
    def open(cls, folder: Path, held: int = 2) -> Self:
        """The token set in a folder, or the one that the folder's manifest names as its `set`.

        Raises UserError when there is no complete token set.
        """
        manifest = read_manifest(folder)
        place = folder
        if manifest is not None and "set" in manifest:
            place = (folder / manifest["set"]).resolve()  # as an error is to name it, without ../..
            manifest = read_manifest(place)
        if manifest is None or not {"unit", "shards", "fingerprint"} <= manifest.keys():
            raise UserError("no complete token set here", where=str(place), do="run the pack stage (again)")
        return cls(place, manifest, folder.name, held)

    @property
    def documents(self) -> int:
        return self._first[-1]

    def __len__(self) -> int:
        """Examples, of one or two documents each."""
        return self.documents // DOCUMENTS[self.unit]

    @property
    def spelling_file(self) -> Path:
        return self.folder / _SPELLING

    @property
    def spelling(self) -> Spelling:
        return Spelling.open(self.spelling_file)

    def first_document(self, shard: int) -> int:
        """Number in the set of a shard's first document."""
        return self._first[shard]

    def example(self, number: int) -> Example:
        """Example `number`, uncut."""
        if not 0 <= number < len(self):
            raise IndexError(f"example {number} of {len(self)} in {self.folder}")
        each = DOCUMENTS[self.unit]
        shard = bisect_right(self._first, number * each) - 1
        columns, at = self.shard(shard), number * each - self._first[shard]
        source = self.manifest["sources"][columns.source[at]]
        label = -1 if columns.label is None else int(columns.label[at])
        labels = tuple(self.manifest["labels"][label]) if label >= 0 else ()
        return Example([columns[at + more] for more in range(each)], source, int(columns.hash[at]), labels)

    def verify(self) -> None:
        """Reads every shard; raises UserError naming the first that is missing or not what was written."""
        for number in range(len(self.shards)):
            self._verify(number)

    def _verify(self, number: int) -> None:
        entry = self.shards[number]
        path = self.folder / entry.file
        if not path.is_file():
            raise UserError("this shard is missing", where=str(path), do="delete its folder and pack again")
        found = sha256_file(path)
        if found != entry.sha256:
            raise UserError(
                f"this shard is damaged: its checksum is {found[:12]}… and {entry.sha256[:12]}… was written",
                where=str(path),
                do="delete its folder and pack again",
            )
        self._checked.add(number)

    def _open_shard(self, number: int) -> Columns:
        if number not in self._checked:
            self._verify(number)
        return Columns.open(self.folder / self.shards[number].file)


def require_one_stream(sets: Sequence[TokenSet], unit: str, pack: str, isolate: bool) -> None:
    """Raises UserError for token sets that cannot be one stream of this unit."""
    if (unit == "window") != (pack == "concat"):
        raise UserError(f"`pack: {pack}` cannot make batches of unit {unit}", do="windows go with `pack: concat` only")
    if pack == "best_fit" and not isolate:
        raise UserError("`pack: best_fit` needs `isolate: true`", do="use `concat` or `none`, or set `isolate: true`")
    plain = ("window", "document")
    for token_set in sets:
        where = str(token_set.folder)
        if token_set.unit != unit and not (token_set.unit in plain and unit in plain):
            raise UserError(f"this token set holds unit {token_set.unit}, not {unit}", where=where, do="pack it again")
        for name in ("tokenizer", "template"):
            if token_set.manifest[name] != sets[0].manifest[name]:
                other = sets[0].folder
                raise UserError(f"packed with another {name} than {other}", where=where, do="pack both again with one")
