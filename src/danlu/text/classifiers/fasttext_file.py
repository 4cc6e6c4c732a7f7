"""Whether a file holds a whole supervised model of fastText: every size and number in it that its code trusts.

The form is that of fastText 0.9.2, FastText::saveModel (versions 11 and 12): settings, dictionary, then two matrices,
each of them plain or as codes of a product quantiser.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from danlu.ledger.errors import UserError

_MAGIC, _NEWEST = 793712314, 12
_SUPERVISED = 3
_LOSSES = range(1, 5)  # hs, ns, softmax, ova
_LONGEST = 100  # n-grams: no model has longer ones, and time grows with them
_WORDS = 1 << 30
_COUNTS = 10**15  # what fastText takes for infinity where it builds the tree of labels
_CENTROIDS = 256


class _Damage(Exception):
    """What is wrong with a file."""


@dataclass(frozen=True, slots=True)
class _Arguments:
    dim: int
    bucket: int


@dataclass(frozen=True, slots=True)
class _Dictionary:
    words: int
    labels: list[str]
    pruned: int
    """N-grams that were left, each with its row; -1 where none was taken out."""


def check(path: Path) -> list[str]:
    """The labels of the model as they are written, in the order of its rows.

    Raises UserError for a file that fastText could not safely read.
    """
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _checked(_Reader(content))
    except OSError as error:
        raise UserError(f"the model cannot be read: {error.strerror}", where=str(path), do="correct the path") from None
    except (_Damage, ValueError) as damage:  # mmap's ValueError: an empty file
        raise UserError(
            f"this is no whole supervised model of fastText: {damage}", where=str(path), do="copy or train it again"
        ) from None


class _Reader:
    """Takes values off a file from its beginning to its end."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 0

    def take(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize("<" + form)
        return struct.unpack("<" + form, self.content[self.skip(size) : self.at])

    def array(self, dtype: str, count: int) -> np.ndarray:
        start = self.skip(np.dtype(dtype).itemsize * count)
        return np.frombuffer(self.content[start : self.at], dtype)

    def skip(self, size: int) -> int:
        """Where the next `size` bytes begin."""
        start = self.at
        _require(0 <= size <= len(self.content) - start, "it is cut off, or a size in it is wrong")
        self.at += size
        return start

    def word(self) -> bytes:
        end = self.content.find(b"\0", self.at)
        _require(end >= 0, "it is cut off inside its dictionary")
        return self.content[self.skip(end + 1 - self.at) : end]


def _checked(reader: _Reader) -> list[str]:
    arguments = _arguments(reader)
    dictionary = _dictionary(reader, arguments)
    ngrams = arguments.bucket if dictionary.pruned < 0 else dictionary.pruned
    quantised = _flag(reader)
    _matrix(reader, quantised, dictionary.words + ngrams, arguments.dim)
    _matrix(reader, _flag(reader) and quantised, len(dictionary.labels), arguments.dim)
    _require(reader.at == len(reader.content), "it goes on behind its end")
    return dictionary.labels


def _arguments(reader: _Reader) -> _Arguments:
    magic, version = reader.take("ii") if len(reader.content) >= 8 else (0, 0)
    _require(magic == _MAGIC, "it does not begin as such a file does")
    _require(version in (_NEWEST - 1, _NEWEST), f"its version {version} is not known")
    dim, _, _, _, _, ngrams, loss, model, bucket, shortest, longest, _ = reader.take("12i")
    reader.take("d")
    _require(model == _SUPERVISED, "it holds word vectors, not a classifier (supervised)")
    _require(loss in _LOSSES and dim > 0 and bucket >= 0, "its settings are impossible")
    longest = 0 if version < _NEWEST else longest
    lengths = (ngrams, shortest, longest)
    _require(min(lengths) >= 0 and max(lengths) <= _LONGEST, "its settings are impossible")
    _require(bucket > 0 or (ngrams <= 1 and longest == 0), "it has n-grams, but no places for them")
    return _Arguments(dim, bucket)


def _dictionary(reader: _Reader, arguments: _Arguments) -> _Dictionary:
    size, words, several = reader.take("3i")
    _, pruned = reader.take("qq")
    _require(0 <= words <= size < _WORDS and several == size - words and several > 0, "its dictionary has wrong sizes")
    _require(-1 <= pruned <= arguments.bucket, "its dictionary has wrong sizes")
    labels, total = [], 0
    for place in range(size):
        word = reader.word()
        count, kind = reader.take("qB")
        _require(kind == (place >= words), "words and labels are mixed in its dictionary")
        if place >= words:
            _require(0 < count < _COUNTS, "a label has an impossible count")
            labels.append(_label(word))
            total += count
    _require(total < _COUNTS and len(set(labels)) == several, "its labels are not told apart")
    if pruned > 0:
        ngrams, rows = reader.array("<i4", 2 * pruned).reshape(-1, 2).T
        right = ngrams.min() >= 0 and ngrams.max() < arguments.bucket and rows.min() >= 0 and rows.max() < pruned
        _require(bool(right), "its n-grams have rows that are not there")
    return _Dictionary(words, labels, pruned)


def _label(word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError:
        raise _Damage("a label is not UTF-8") from None


def _flag(reader: _Reader) -> bool:
    (flag,) = reader.take("B")
    _require(flag <= 1, "it is cut off, or a size in it is wrong")
    return flag == 1


def _matrix(reader: _Reader, quantised: bool, rows: int, dim: int) -> None:
    norms = quantised and _flag(reader)
    found = reader.take("qq")
    _require(found == (rows, dim), f"a matrix is {found[0]} × {found[1]} in the place of {rows} × {dim}")
    if not quantised:
        reader.skip(4 * rows * dim)
        return
    (size,) = reader.take("i")
    reader.skip(size)
    parts = _quantiser(reader, dim)
    _require(size == rows * parts, "a matrix has another number of codes than of rows")
    if norms:
        reader.skip(rows)
        _quantiser(reader, 1)


def _quantiser(reader: _Reader, dim: int) -> int:
    """In how many parts it cuts a vector."""
    found, parts, width, last = reader.take("4i")
    _require(found == dim and width > 0, "a quantiser is for vectors of another size")
    _require(parts == -(-dim // width) and last == (dim % width or width), "a quantiser has parts of wrong sizes")
    reader.skip(4 * _CENTROIDS * dim)
    return parts


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Damage(otherwise)
