"""How much of a record is written as people write: letters and Chinese characters next to their usual neighbours."""

from __future__ import annotations

from functools import cache

import numpy as np

from danlu.text.kernels import codes_of, sums
from danlu.text.ops.operator import Column
from danlu.text.records import Record
from danlu.text.steps.statistics import NEIGHBOURS, NeighboursStep

_FEWEST = 40  # neighbours; a share of fewer says little
_PART = 10  # units of measure or pinyin in a Chinese text are no more of it than one in so many
_OTHER_LATIN = 27  # À, ß, ą: as good as never in English, and all that UTF-8 read as Latin-1 consists of
_FIRST_HAN = 28


def measure(records: list[Record], step: NeighboursStep) -> dict[str, Column]:
    """`latin` and `han`: which share of all Latin letters in a row, and of all Chinese characters in a row, are usual
    neighbours; NaN in records of which such neighbours are fewer than 40 or than a tenth. Capitals behind a letter, as
    in SQL, do not count."""
    codes = codes_of(records)
    numbers = _numbers()[codes.points]
    left, right = numbers[:-1], numbers[1:]
    both = (left > 0) & (right > 0)
    capital = (codes.points[1:] - np.uint32(ord("A"))) < 26
    latin = np.flatnonzero(both & (left < _FIRST_HAN) & (right < _FIRST_HAN) & ~capital)
    han = np.flatnonzero(both & (left >= _FIRST_HAN) & (right >= _FIRST_HAN))
    fewest = np.maximum(_FEWEST, codes.lengths / _PART)
    return {name: _share(numbers, at, codes.bounds, fewest) for name, at in (("latin", latin), ("han", han))}


def folded(points: np.ndarray) -> np.ndarray:
    """Code points, of traditional characters those of their simplified ones."""
    return _simplified()[points]


def _share(numbers: np.ndarray, at: np.ndarray, bounds: np.ndarray, fewest: np.ndarray) -> np.ndarray:
    place = numbers[at].astype(np.int64) * _size() + numbers[at + 1]
    usual = _usual()[place >> 3] >> (place & 7).astype(np.uint8) & 1
    cuts = np.searchsorted(at, bounds)
    count = np.diff(cuts)
    return np.divide(sums(usual, cuts), count, out=np.full(len(count), np.nan), where=count >= fewest)


@cache
def _followers() -> dict[str, str]:
    lines = (line.partition(" ") for line in NEIGHBOURS.read_text("utf-8").splitlines())
    return {first: after for first, _, after in lines}


@cache
def _numbered() -> dict[str, int]:
    """A number for each character of the table: letters from 1 to 26, Chinese characters above `_FIRST_HAN`, which
    stands for all that the table does not know."""
    letters = {chr(ord("a") + place): place + 1 for place in range(26)}
    known = sorted({*_followers(), *"".join(_followers().values())} - set(letters))
    return letters | {character: _FIRST_HAN + 1 + place for place, character in enumerate(known)}


def _size() -> int:
    return _FIRST_HAN + 1 + len(_numbered()) - 26


@cache
def _usual() -> np.ndarray:
    """A bit for each two numbers."""
    size, number = _size(), _numbered()
    bits = np.zeros(size * size, np.uint8)
    for first, after in _followers().items():
        bits[[number[first] * size + number[second] for second in after]] = 1
    return np.packbits(bits, bitorder="little")


@cache
def _numbers() -> np.ndarray:
    """The number of each code point, 0 for all that is neither a Latin letter nor Chinese."""
    table = np.zeros(0x110000, np.uint16)
    table[0xC0:0x250] = _OTHER_LATIN
    for first, last in ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)):
        table[first : last + 1] = _FIRST_HAN
    for character, number in _numbered().items():
        table[[ord(character), ord(character.upper())]] = number
    simplified = _simplified()
    other = np.flatnonzero(simplified != np.arange(len(simplified)))
    table[other] = table[simplified[other]]
    return table


@cache
def _simplified() -> np.ndarray:
    from opencc import OpenCC

    table = np.arange(0x110000, dtype=np.uint32)
    points = [*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000)]
    converted = OpenCC("t2s").convert("\n".join(map(chr, points))).split("\n")
    table[points] = [ord(one) if len(one) == 1 else point for point, one in zip(points, converted, strict=True)]
    return table
