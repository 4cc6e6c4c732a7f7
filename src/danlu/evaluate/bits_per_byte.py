"""Bits per byte and perplexity of held-out token sets, by language, source and tag."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from danlu.evaluate.rows import language_of
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.tokens.shards import TokenSet

if TYPE_CHECKING:
    from danlu.infer.model import Model
    from danlu.ledger.progress import Bar
    from danlu.tokens.encode import Encoded

CHUNK = 16
"""Documents scored together."""
LANGUAGE_TOKENS = 512
"""So many tokens of a document tell its language."""


@dataclass(slots=True)
class Sums:
    """What is added up over documents. Content tokens spell text; stop tokens are in the loss and do not."""

    documents: int = 0
    tokens: int = 0
    nats: float = 0.0
    content_nats: float = 0.0
    bytes: int = 0

    def add(self, other: Sums) -> None:
        self.documents += other.documents
        self.tokens += other.tokens
        self.nats += other.nats
        self.content_nats += other.content_nats
        self.bytes += other.bytes

    def values(self) -> dict[str, float]:
        return {
            "bits_per_byte": self.content_nats / math.log(2) / self.bytes if self.bytes else math.nan,
            "perplexity": math.exp(min(self.nats / self.tokens, 700.0)) if self.tokens else math.nan,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "documents": self.documents,
        }


def token_sets(folder: Path) -> list[TokenSet]:
    """The token set that a folder is, or those in it, by name. Raises UserError where there is none."""
    folders = [folder] if read_manifest(folder) else sorted(path for path in folder.glob("*") if read_manifest(path))
    if not folders:
        raise UserError("no token set here", where=str(folder), do="name a folder that the pack stage wrote")
    return [TokenSet.open(path) for path in folders]


def nothing_held_out(name: str, folder: Path) -> str | None:
    """What to tell of the held-out set `name` where no example is in it: why, and what changes that."""
    if any(len(one) for one in token_sets(folder)):
        return None
    packed = read_manifest(folder.parent) or {}
    share, count = packed.get("settings", {}).get("held_out"), packed.get("examples")
    why, do = "", "raise its data's held_out, or give more text"
    if share == 0:
        why, do = "its data's held_out is 0", "set it to 0.01, say"
    elif share is not None:
        examples = f"{count:,} example" + "s" * (count != 1)
        why = f"of {examples} none fell into the share of {share:g}, which content decides"
    told = f"{name} has nothing held out" + (f" ({why})" if why else "")
    return f"{told}, so its bits per byte are not measured\n  → {do}"


def bits_per_byte(model: Model, sets: list[TokenSet], most: int | None, window: int, bar: Bar) -> dict[str, object]:
    """Bits per byte (nats of content tokens / ln 2 / their UTF-8 bytes) and perplexity (of all tokens in the loss).

    Only tokens with weight count: the answers of conversations, the chosen answer of a pair, all of a document but its
    first token. At most `most` documents of each set are read. Longer ones than `window` tokens are read in windows
    that overlap by half. Gives bits_per_byte, perplexity, tokens, bytes and documents, and the same under `language`,
    `source` and, where records have tags, `tag` ("age=25-34"). Raises UserError for a set of another tokenizer.
    """
    whole = Sums()
    groups: dict[str, dict[str, Sums]] = {"language": {}, "source": {}, "tag": {}}
    for token_set in sets:
        require_tokenizer(token_set, model)
        text_bytes = token_set.spelling.text_bytes
        count = min(len(token_set), most or len(token_set))
        for start in range(0, count, CHUNK):
            examples = [token_set.example(number) for number in range(start, min(start + CHUNK, count))]
            sums = _score(model, [example.documents[0] for example in examples], text_bytes, window)
            for example, one in zip(examples, sums, strict=True):
                text = model.tokenizer.decode(example.documents[0].tokens[:LANGUAGE_TOKENS].tolist())
                whole.add(one)
                tags = [("tag", label) for label in example.labels]
                for group, name in (("language", language_of(text)), ("source", token_set.name), *tags):
                    groups[group].setdefault(name, Sums()).add(one)
            bar.advance(len(examples))
    named = {
        group: {name: sums.values() for name, sums in sorted(parts.items())} for group, parts in groups.items() if parts
    }
    return {**whole.values(), **named}


def require_tokenizer(token_set: TokenSet, model: Model) -> None:
    """Raises UserError for a set whose tokens are not the model's."""
    if token_set.manifest["tokenizer"] != model.tokenizer.fingerprint:
        raise UserError(
            "this set was packed with another tokenizer than the model's",
            where=str(token_set.folder),
            do="pack the held-out text with the model's tokenizer",
        )


def _score(model: Model, documents: list[Encoded], text_bytes: np.ndarray, window: int) -> list[Sums]:
    windows = [list(_windows(document, window)) for document in documents]
    pairs = [
        (document.tokens[start:first].tolist(), document.tokens[first:end].tolist())
        for document, parts in zip(documents, windows, strict=True)
        for start, first, end in parts
    ]
    scores = iter(model.engine.score(pairs))
    return [
        _sums(document, [(first, next(scores).logps) for _, first, _ in parts], text_bytes)
        for document, parts in zip(documents, windows, strict=True)
    ]


def _windows(document: Encoded, window: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, end): tokens [first, end) are scored after [start, first); all that have weight are covered."""
    weighted = np.flatnonzero(document.weights)
    weighted = weighted[weighted > 0]
    if not len(weighted):
        return
    first, stop = int(weighted[0]), int(weighted[-1]) + 1
    while first < stop:
        start = 0 if stop <= window else max(0, first - window // 2)
        end = min(stop, start + window)
        yield start, first, end
        first = end


def _sums(document: Encoded, scored: list[tuple[int, list[float]]], text_bytes: np.ndarray) -> Sums:
    sums = Sums(documents=1)
    for first, logps in scored:
        part = slice(first, first + len(logps))
        counted = document.weights[part] != 0
        nats = -np.array(logps)[counted]
        sizes = text_bytes[document.tokens[part][counted]]
        sums.tokens += int(counted.sum())
        sums.nats += float(nats.sum())
        sums.content_nats += float(nats[sizes > 0].sum())
        sums.bytes += int(sizes.sum())
    return sums
