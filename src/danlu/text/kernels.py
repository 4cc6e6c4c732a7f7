"""What statistics share: the characters of a batch of records as arrays, with their classes, lines, words and hashes.

A batch is handled as one array of code points, so that the cost of a step does not depend on how short records are.
Spans and n-grams lie record after record; `bounds[r]` and `bounds[r + 1]` are where record r begins and ends in them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property

import numpy as np

from danlu.text.function_words import CHINESE
from danlu.text.ops.contents import text_of
from danlu.text.records import Record

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_STRIDE_BITS = 10
_STRIDE = 1 << _STRIDE_BITS
_BLOCK = 1 << 16  # characters or units whose intermediate values are in memory at a time


class Class(IntEnum):
    """What a character is; in an order in which the questions asked most are ranges."""

    NEWLINE = 0  # "\n" alone: the step `normalise` makes all line ends so
    BLANK = 1  # all other white space
    LETTER = 2  # of any script but Chinese and Japanese, with its marks
    DIGIT = 3  # decimal digits, full-width ones too
    NUMBER = 4  # ①, ½, Ⅳ
    KANA = 5
    HAN = 6
    FUNCTION = 7  # Han characters that are function words
    APOSTROPHE = 8
    FULL_STOP = 9  # ".", which ends a sentence only before white space
    END = 10  # marks that end a sentence wherever they stand
    PUNCTUATION = 11  # all other of Unicode's punctuation, ASCII and full-width
    SYMBOL = 12  # Unicode's symbols: mathematics, currency, arrows, lines of boxes, emoji
    OTHER = 13  # control and format characters, private use, unassigned


CLASSES = len(Class)


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches [start, end) of a batch's characters, in order, none beyond its record."""

    start: np.ndarray
    end: np.ndarray
    bounds: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return self.end - self.start

    @property
    def counts(self) -> np.ndarray:
        """How many each record has."""
        return np.diff(self.bounds)


@dataclass(frozen=True, slots=True)
class Ngrams:
    """The n-grams of units (characters, words) inside records: where each begins among the units, and its hash."""

    first: np.ndarray
    hashes: np.ndarray
    bounds: np.ndarray


class Batch(list[Record]):
    """Records that several steps look at: what they share is computed once, when the first needs it."""

    @cached_property
    def codes(self) -> Codes:
        return Codes([text_of(record) for record in self])


def codes_of(records: list[Record]) -> Codes:
    """The characters of a batch, or of any list of records."""
    return records.codes if isinstance(records, Batch) else Codes([text_of(record) for record in records])


class Codes:
    """The characters of texts, one after the other, with a line end behind each that is none of its characters."""

    def __init__(self, texts: Sequence[str]) -> None:
        joined = "\n".join([*texts, ""])
        self.points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths + 1)])

    @cached_property
    def classes(self) -> np.ndarray:
        """The `Class` of each character, uint8."""
        return class_table().take(self.points)

    @cached_property
    def class_counts(self) -> np.ndarray:
        """[records, CLASSES]: how many characters of each class a record has."""
        counts = np.zeros((len(self.lengths), CLASSES), np.int64)
        for start in range(0, len(self.points), _BLOCK):
            classes = self.classes[start : start + _BLOCK]
            stop = start + len(classes)
            first, last = np.searchsorted(self.bounds, (start, stop - 1), "right") - 1
            inside = np.diff(np.clip(self.bounds[first : last + 2], start, stop))
            cells = np.repeat(np.arange(len(inside)) * CLASSES, inside) + classes
            counts[first : last + 1] += np.bincount(cells, minlength=len(inside) * CLASSES).reshape(-1, CLASSES)
        counts[:, Class.NEWLINE] -= 1
        return counts

    def shares(self, *classes: Class) -> np.ndarray:
        """The share of characters of these classes in each record; 0 in an empty one."""
        return self.class_counts[:, list(classes)].sum(1) / np.maximum(self.lengths, 1)

    @cached_property
    def lines(self) -> Spans:
        """Lines that are not blank, without white space at both ends."""
        return self._joined(self._spans(*_runs(self.classes > Class.BLANK)), self.classes == Class.NEWLINE)

    @cached_property
    def sentences(self) -> Spans:
        """From the first word to the last between marks that end sentences, or lines."""
        classes = self.classes
        stops = (classes[:-1] == Class.FULL_STOP) & (classes[1:] <= Class.BLANK)
        ends = (classes == Class.NEWLINE) | (classes == Class.END)
        ends[:-1] |= stops
        return self._joined(self.words, ends)

    @cached_property
    def words(self) -> Spans:
        """Han characters and kana one by one, and runs of other letters and digits, with apostrophes inside."""
        return self._units((self.classes - np.uint8(Class.KANA)) <= Class.FUNCTION - Class.KANA)

    @cached_property
    def words_and_marks(self) -> Spans:
        """As `words`, and all that is neither blank nor a word: of the same mark many times in a row, the first."""
        alone = self.classes >= Class.KANA
        alone[1:] &= (self.classes[1:] <= Class.FUNCTION) | (self.points[1:] != self.points[:-1])
        return self._units(alone & ~self._running)

    @cached_property
    def _running(self) -> np.ndarray:
        """Which characters stand in runs of letters and digits."""
        classes = self.classes
        running = (classes - np.uint8(Class.LETTER)) <= Class.NUMBER - Class.LETTER
        inside = np.flatnonzero(classes == Class.APOSTROPHE)  # the last character is a line end
        running[inside] = (classes[inside - 1] == Class.LETTER) & (classes[inside + 1] == Class.LETTER)
        return running

    def _units(self, alone: np.ndarray) -> Spans:
        """Runs of letters and digits, and the characters that stand `alone`."""
        starts, ends = _edges(self._running)
        return self._spans(np.flatnonzero(starts | alone), np.flatnonzero(ends | alone) + 1)

    @cached_property
    def word_hashes(self) -> np.ndarray:
        return self.hashes(self.words)

    @cached_property
    def folded_word_hashes(self) -> np.ndarray:
        """As `word_hashes`, but the same for upper and lower case, and for full and half width."""
        return self.hashes_as(fold_table(), self.words)

    def hashes_as(self, table: np.ndarray, spans: Spans) -> np.ndarray:
        """As `hashes`, of what the table has for the code points."""
        return _span_hashes(_sums(table.take(self.points)), spans)

    def hashes(self, spans: Spans) -> np.ndarray:
        """uint64: the same for the same characters, in every batch."""
        return _span_hashes(self._sums, spans)

    @cached_property
    def _sums(self) -> np.ndarray:
        return _sums(self.points)

    def _spans(self, start: np.ndarray, end: np.ndarray) -> Spans:
        return Spans(start, end, np.searchsorted(start, self.bounds))

    def _joined(self, spans: Spans, ends: np.ndarray) -> Spans:
        """Spans between which none of the `ends` stands, as one; every line end behind a record is such an end."""
        if not len(spans.start):
            return spans
        place = np.cumsum(ends, dtype=np.uint32)[spans.start]
        first = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(place[1:] != place[:-1]) + 1])
        last = np.append(first[1:], len(place)) - 1
        return self._spans(spans.start[first], spans.end[last])


def _sums(points: np.ndarray) -> np.ndarray:
    """Sums of the characters before each place, times powers: hashes of spans are differences of two."""
    size = len(points)
    low, high = _powers(_BASE, size)
    before = np.zeros(size + 1, np.uint64)
    terms, whole = before[1:], size >> _STRIDE_BITS << _STRIDE_BITS
    np.multiply(high[:-1, None], low, out=terms[:whole].reshape(-1, _STRIDE))
    np.multiply(high[-1], low[: size - whole], out=terms[whole:])
    terms *= points
    return np.cumsum(before, out=before)


def _span_hashes(before: np.ndarray, spans: Spans) -> np.ndarray:
    start = spans.start
    low, high = _powers(_INVERSE, len(before))
    shift = low[start & (_STRIDE - 1)] * high[start >> _STRIDE_BITS]
    content = (before[spans.end] - before[start]) * shift
    content += spans.lengths.astype(np.uint64) * _MIX  # NULs add to the length alone
    # Unmixed, sums of these sums meet: in n-grams of words, "1 11" had the hash of "2 10".
    return mixed(content)


def ngrams(units: np.ndarray, bounds: np.ndarray, n: int) -> Ngrams:
    """The n-grams of units, given as code points or hashes; none across records."""
    hashes = rolling_hashes(units, n)
    inside = np.ones(len(hashes), bool)
    inside[across_records(bounds, n, len(hashes))] = False
    first = np.flatnonzero(inside)
    return Ngrams(first, hashes[first], np.searchsorted(first, bounds))


def across_records(bounds: np.ndarray, n: int, count: int) -> np.ndarray:
    """Which of `count` n-grams reach from one record into the next."""
    across = (bounds[1:-1, None] - np.arange(1, n)).reshape(-1)
    return across[(across >= 0) & (across < count)]


def rolling_hashes(units: np.ndarray, n: int) -> np.ndarray:
    """uint64: the polynomial hash of every n neighbours among units, modulo 2^64."""
    hashes = np.empty(max(0, len(units) - n + 1), np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        hashes[start : start + _BLOCK] = _rolled(units[start : start + _BLOCK + n - 1].astype(np.uint64), n)
    return hashes


def _rolled(units: np.ndarray, n: int) -> np.ndarray:
    """Doubled from half of n."""
    if n == 1:
        return units
    half = n // 2
    hashes = _rolled(units, half)
    whole = hashes[:-half] * np.uint64(pow(_BASE, half, 1 << 64)) + hashes[half:]
    return whole[:-1] * np.uint64(_BASE) + units[n - 1 :] if n % 2 else whole


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 of which every bit depends on all bits of its own value (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def sums(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The sum of values for each record."""
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])
    return total[bounds[1:]] - total[bounds[:-1]]


def _edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs begin, and their last places."""
    starts, ends = mask.copy(), mask.copy()
    starts[1:] &= ~mask[:-1]
    ends[:-1] &= ~mask[1:]
    return starts, ends


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts, ends = _edges(mask)
    return np.flatnonzero(starts), np.flatnonzero(ends) + 1


def _powers(base: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """base^0, base^1 … below the stride, and powers a stride apart up to `size`."""
    low = np.full(_STRIDE, base, np.uint64)
    low[0] = 1
    high = np.full(size // _STRIDE + 1, pow(base, _STRIDE, 1 << 64), np.uint64)
    high[0] = 1
    return np.multiply.accumulate(low), np.multiply.accumulate(high)


@cache
def fold_table() -> np.ndarray:
    """By code point, the letter or digit in lower case and of ordinary width that it is a way to write."""
    table = np.arange(0x110000, dtype=np.uint32)
    for point in range(0x20000):  # above, no letter has another form
        character = chr(point)
        if unicodedata.category(character)[0] in "LN":
            plain = unicodedata.normalize("NFKC", character).lower()
            table[point] = ord(plain) if len(plain) == 1 else point
    return table


@cache
def class_table() -> np.ndarray:
    """The class of every code point."""
    table = np.full(0x110000, Class.OTHER, np.uint8)
    for first, last in ((0, 0x1FFFF), (0xE0000, 0xE01FF)):  # in other planes are Han characters, or nothing
        points = range(first, last + 1)
        table[first : last + 1] = [_BY_CATEGORY.get(unicodedata.category(chr(point)), Class.OTHER) for point in points]
    letters = table == Class.LETTER
    for first, last in ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)):
        table[first : last + 1][letters[first : last + 1]] = Class.KANA
    for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)):
        table[first : last + 1] = Class.HAN  # those too that this Python's Unicode does not know yet
    for first, last in ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF)):
        table[first : last + 1] = Class.OTHER  # variation selectors, as in emoji, are marks to Unicode
    for characters, found in _BY_CHARACTER.items():
        table[[ord(character) for character in characters]] = found
    return table


_BY_CATEGORY = {
    **dict.fromkeys(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me"), Class.LETTER),
    **dict.fromkeys(("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"), Class.PUNCTUATION),
    **dict.fromkeys(("Sm", "Sc", "Sk", "So"), Class.SYMBOL),
    **dict.fromkeys(("Zs", "Zl", "Zp"), Class.BLANK),
    "Nd": Class.DIGIT,
    "Nl": Class.NUMBER,
    "No": Class.NUMBER,
}
_BY_CHARACTER = {
    "\n": Class.NEWLINE,
    "\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85": Class.BLANK,
    ".": Class.FULL_STOP,
    "。！？；!?…｡": Class.END,
    "'’": Class.APOSTROPHE,
    "々〇": Class.HAN,
    "".join(CHINESE): Class.FUNCTION,
}
