"""The items of a JSON array of any size, one at a time, in memory that depends on the item."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from typing import Any

from danlu.text.problems import BadRow
from danlu.text.streams import MAX_ROW

_SPACE = " \t\r\n"
_BETWEEN = _SPACE + ","
_PARTIAL_TOKEN = 16  # characters; a literal, number or escape that the end of the buffer cut is shorter
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)  # NaN and Infinity are no values


def parse(text: str) -> Any:
    """One JSON value; NaN and Infinity become None. Raises BadRow for anything else."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRow("broken JSON", f"{error.msg} at character {error.pos + 1}") from None
    except (RecursionError, ValueError) as error:
        raise BadRow("broken JSON", str(error)) from None


def items(
    chunks: Iterator[bytes], on_bad: Callable[[BadRow, int], None], longest: int = MAX_ROW
) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of a top-level array's items, or of values that stand one after another.

    `on_bad` gets each item that cannot be parsed. Where the items of an array start on lines of their own, reading
    goes on with the next item; elsewhere the rest of the file is lost, and that is what `on_bad` is told.
    """
    yield from _Items(chunks, on_bad, longest)


class _Items:
    def __init__(self, chunks: Iterator[bytes], on_bad: Callable[[BadRow, int], None], longest: int) -> None:
        self._chunks, self._on_bad, self._longest = chunks, on_bad, longest
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at, self._ended = "", 0, False
        self._damage: BadRow | None = None
        self._next_item = ""  # what stands before the second item and those after it

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        self._skip(_SPACE)
        in_array = self._text.startswith("[", self._at)
        self._at += in_array
        self._next_item = ("," + self._skip(_SPACE) if in_array else "\n") + "{"
        number = 1
        while self._at < len(self._text) and not (in_array and self._text[self._at] == "]"):
            try:
                value = self._value()
            except BadRow as bad:
                self._on_bad(self._damage or bad, number)
                if self._damage or not self._resynchronise(number):
                    return
            else:
                yield number, value
                self._skip(_BETWEEN)
            number += 1
        if self._damage or (in_array and self._at >= len(self._text)):
            self._on_bad(self._damage or BadRow("cut-off file", "the array has no end"), number)

    def _value(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                whole = isinstance(value, dict | list | str) or end + _PARTIAL_TOKEN < len(self._text)
                if whole or self._ended:
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                open_ended = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _PARTIAL_TOKEN
                if self._ended and open_ended:
                    raise BadRow("cut-off file", "the last item has no end") from None
                if not open_ended:
                    raise BadRow("broken JSON", error.msg) from None
            except (RecursionError, ValueError) as error:
                raise BadRow("broken JSON", str(error)) from None
            if len(self._text) - self._at > self._longest:
                raise BadRow("broken JSON", f"an item longer than {self._longest >> 20} MB, or one without an end")
            self._fill(max(1, len(self._text) - self._at))  # at least twice as much: parsing again stays linear

    def _resynchronise(self, number: int) -> bool:
        """Goes to the next item, where items start on lines of their own; False where there is none."""
        if "\n" not in self._next_item:
            self._on_bad(BadRow("rest of the file lost", "the items do not stand on lines of their own"), number + 1)
            return False
        while (found := self._text.find(self._next_item, self._at)) < 0:
            if self._ended:
                return False
            self._at = max(self._at, len(self._text) - len(self._next_item))
            self._fill(1)
        self._at = found + len(self._next_item) - 1
        return True

    def _skip(self, characters: str) -> str:
        """Goes past any of `characters`, which are given back, to the next other one or the end."""
        skipped = ""
        while self._at < len(self._text) or not self._ended:
            if self._at == len(self._text):
                self._fill(1)
            elif self._text[self._at] in characters:
                skipped += self._text[self._at]
                self._at += 1
            else:
                break
        return skipped

    def _fill(self, amount: int) -> None:
        """Drops what was read and adds at least `amount` characters, or what is left."""
        parts, size = [self._text[self._at :]], 0
        while size < amount and not self._ended:
            try:
                text = self._decoder.decode(next(self._chunks))
            except StopIteration:
                text, self._ended = self._decoder.decode(b"", final=True), True
            except BadRow as damage:
                text, self._ended, self._damage = "", True, damage
            parts.append(text)
            size += len(text)
        self._text, self._at = "".join(parts), 0
