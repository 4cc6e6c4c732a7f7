"""Many encoded documents as flat columns: what a shard holds, in memory or mapped from its file."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import save

from danlu.ledger.errors import UserError
from danlu.ledger.files import atomic_file
from danlu.tokens.encode import Encoded

_DTYPES = {
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F32": np.float32,
}
_PIECES = {"piece_starts": np.int32, "piece_kinds": np.uint8, "piece_roles": np.uint8, "piece_turns": np.int16}
_BLOCK_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """N tokens of d documents, with P pieces; `columns[i]` is document i as an Encoded."""

    tokens: np.ndarray
    """uint16 or uint32 [N]."""
    document_offsets: np.ndarray
    """int64 [d + 1]."""
    source: np.ndarray
    """int32 [d]: number of the source's name in the manifest."""
    hash: np.ndarray
    """uint64 [d]: content hash of the record."""
    bytes: np.ndarray
    """int32 [d]: UTF-8 bytes of the content that is in the loss."""
    weights: np.ndarray | None = None
    """float32 [N]; None: all are 1."""
    label: np.ndarray | None = None
    """int32 [d]: number of the record's labels in the manifest, -1 for none; None: no record has any."""
    scores: np.ndarray | None = None
    """float32 [d, k]: the numbers of the record's meta that the manifest names, NaN where it has none."""
    piece_offsets: np.ndarray | None = None
    """int64 [d + 1]; None, as the four below: no document has pieces."""
    piece_starts: np.ndarray | None = None
    piece_kinds: np.ndarray | None = None
    piece_roles: np.ndarray | None = None
    piece_turns: np.ndarray | None = None
    """int32, uint8, uint8, int16 [P]; starts count from the document's first token."""

    def __len__(self) -> int:
        return len(self.hash)

    def __getitem__(self, index: int) -> Encoded:
        whole = self.span(index, 0, len(self.tokens))
        if self.piece_offsets is None:
            return replace(whole, text_bytes=int(self.bytes[index]))
        here = slice(self.piece_offsets[index], self.piece_offsets[index + 1])
        return replace(
            whole, text_bytes=int(self.bytes[index]), **{name: getattr(self, name)[here] for name in _PIECES}
        )

    def span(self, index: int, start: int, end: int) -> Encoded:
        """What of document `index` lies in tokens start to end - 1 of all; without pieces."""
        start, end = max(start, int(self.document_offsets[index])), min(end, int(self.document_offsets[index + 1]))
        weights = np.ones(end - start, np.float32) if self.weights is None else self.weights[start:end]
        pieces = {name: np.zeros(0, dtype) for name, dtype in _PIECES.items()}
        return Encoded(tokens=self.tokens[start:end].astype(np.uint32), weights=weights, text_bytes=0, **pieces)

    @classmethod
    def of(
        cls,
        documents: Sequence[Encoded],
        source: Sequence[int],
        hashes: Sequence[int],
        dtype: np.dtype,
        label: Sequence[int] | None = None,
        scores: np.ndarray | None = None,
    ) -> Self:
        """Documents laid end to end; tokens become `dtype`."""
        weights = _joined([document.weights for document in documents], np.float32)
        with_pieces = any(len(document.piece_starts) for document in documents)
        pieces = {
            name: _joined([getattr(document, name) for document in documents], kind) for name, kind in _PIECES.items()
        }
        return cls(
            tokens=_joined([document.tokens for document in documents], dtype),
            document_offsets=_offsets([len(document.tokens) for document in documents]),
            source=np.array(source, np.int32),
            hash=np.array(hashes, np.uint64),
            bytes=np.array([document.text_bytes for document in documents], np.int32),
            weights=None if (weights == 1).all() else weights,
            label=None if label is None else np.array(label, np.int32),
            scores=scores,
            piece_offsets=_offsets([len(document.piece_starts) for document in documents]) if with_pieces else None,
            **(pieces if with_pieces else {}),
        )

    def slice(self, start: int, end: int) -> Columns:
        """Documents start to end - 1, as views."""
        tokens = slice(int(self.document_offsets[start]), int(self.document_offsets[end]))
        parts: dict[str, np.ndarray] = {}
        if self.piece_offsets is not None:
            here = slice(int(self.piece_offsets[start]), int(self.piece_offsets[end]))
            parts = {name: getattr(self, name)[here] for name in _PIECES}
            parts["piece_offsets"] = self.piece_offsets[start : end + 1] - here.start
        return Columns(
            tokens=self.tokens[tokens],
            document_offsets=self.document_offsets[start : end + 1] - tokens.start,
            source=self.source[start:end],
            hash=self.hash[start:end],
            bytes=self.bytes[start:end],
            weights=None if self.weights is None else self.weights[tokens],
            label=None if self.label is None else self.label[start:end],
            scores=None if self.scores is None else self.scores[start:end],
            **parts,
        )

    def renumbered(self, sources: Sequence[int], labels: Sequence[int], scores: Sequence[int], width: int) -> Columns:
        """The same documents, source s as sources[s], label l as labels[l], score column c as scores[c] of `width`.

        A score column whose new number is `width` is left out.
        """
        label = None if self.label is None else np.append(np.array(labels, np.int32), np.int32(-1))[self.label]
        wide = np.full((len(self), width + 1), np.nan, np.float32)
        if self.scores is not None:
            wide[:, scores] = self.scores
        source = np.array(sources, np.int32)[self.source]
        return replace(self, source=source, label=label, scores=wide[:, :width] if width else None)

    def take(self, order: np.ndarray) -> Columns:
        """The documents `order` names, in that order."""
        parts: dict[str, np.ndarray] = {}
        if self.piece_offsets is not None:
            parts = {name: _gathered(getattr(self, name), self.piece_offsets, order) for name in _PIECES}
            parts["piece_offsets"] = _offsets(np.diff(self.piece_offsets)[order])
        return Columns(
            tokens=_gathered(self.tokens, self.document_offsets, order),
            document_offsets=_offsets(np.diff(self.document_offsets)[order]),
            source=self.source[order],
            hash=self.hash[order],
            bytes=self.bytes[order],
            weights=None if self.weights is None else _gathered(self.weights, self.document_offsets, order),
            label=None if self.label is None else self.label[order],
            scores=None if self.scores is None else self.scores[order],
            **parts,
        )

    @classmethod
    def join(cls, parts: Sequence[Columns]) -> Columns:
        """The documents of all `parts`, one part after the other."""
        weighted = any(part.weights is not None for part in parts)
        labelled = any(part.label is not None for part in parts)
        width = max((part.scores.shape[1] for part in parts if part.scores is not None), default=0)
        pieces: dict[str, np.ndarray] = {}
        if any(part.piece_offsets is not None for part in parts):
            pieces = {name: _joined([_piece(part, name) for part in parts], kind) for name, kind in _PIECES.items()}
            counts = [np.zeros(len(p)) if p.piece_offsets is None else np.diff(p.piece_offsets) for p in parts]
            pieces["piece_offsets"] = _offsets(_joined(counts, np.int64))
        return cls(
            tokens=np.concatenate([part.tokens for part in parts]),
            document_offsets=_offsets(np.concatenate([np.diff(part.document_offsets) for part in parts])),
            source=np.concatenate([part.source for part in parts]),
            hash=np.concatenate([part.hash for part in parts]),
            bytes=np.concatenate([part.bytes for part in parts]),
            weights=np.concatenate([_weights(part) for part in parts]) if weighted else None,
            label=np.concatenate([_label(part) for part in parts]) if labelled else None,
            scores=np.concatenate([_scores(part, width) for part in parts]) if width else None,
            **pieces,
        )

    def write(self, path: Path) -> None:
        """Writes a safetensors file, whole or not at all; equal columns give equal bytes."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None})
        with atomic_file(path, "wb") as handle:
            handle.write(content)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Maps a file that `write` made; pages are read as they are used.

        Raises UserError, naming the file, when it is missing, truncated or not of this form.
        """
        arrays = map_safetensors(path)
        required, known = {"tokens", "document_offsets", "source", "hash", "bytes"}, {f.name for f in fields(cls)}
        if not required <= arrays.keys() <= known:
            raise UserError(
                f"not a token shard: it holds {sorted(arrays)}", where=str(path), do="delete its folder and pack again"
            )
        return cls(**arrays)


def map_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as read-only arrays on a memory map.

    Raises UserError, naming the file, when it is missing or damaged.
    """
    try:
        with path.open("rb") as handle:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        size = struct.unpack_from("<Q", mapped)[0]
        header = json.loads(mapped[8 : 8 + size])
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + size + end != len(mapped):
            raise ValueError(f"{8 + size + end} bytes are announced and {len(mapped)} are there")
        return {name: _array(mapped, 8 + size, entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(
            f"this shard is damaged or missing ({error})", where=str(path), do="delete its folder and pack again"
        ) from error


def _array(mapped: mmap.mmap, data: int, entry: dict[str, Any]) -> np.ndarray:
    dtype, (start, end) = np.dtype(_DTYPES[entry["dtype"]]), entry["data_offsets"]
    return np.frombuffer(mapped, dtype, (end - start) // dtype.itemsize, data + start).reshape(entry["shape"])


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _joined(parts: Sequence[np.ndarray], dtype: np.typing.DTypeLike) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)


def _weights(part: Columns) -> np.ndarray:
    return np.ones(len(part.tokens), np.float32) if part.weights is None else part.weights


def _label(part: Columns) -> np.ndarray:
    return np.full(len(part), -1, np.int32) if part.label is None else part.label


def _scores(part: Columns, width: int) -> np.ndarray:
    return np.full((len(part), width), np.nan, np.float32) if part.scores is None else part.scores


def _piece(part: Columns, name: str) -> np.ndarray:
    array: np.ndarray | None = getattr(part, name)
    return np.zeros(0, _PIECES[name]) if array is None else array


def _gathered(flat: np.ndarray, offsets: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Segments of `flat` in the given order; in blocks, since an index of all tokens would outweigh them."""
    lengths = np.diff(offsets)[order]
    ends = np.cumsum(lengths)
    made = np.empty(int(lengths.sum()), flat.dtype)
    first = 0
    while first < len(order):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK_TOKENS, "right")))
        here = lengths[first:last]
        shift = np.repeat(offsets[order[first:last]] - (ends[first:last] - here), here)
        end = int(ends[last - 1])
        made[done:end] = flat[np.arange(done, end) + shift]
        first = last
    return made
