"""The bytes behind tokens, and where characters begin in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import regex
from numpy.typing import NDArray

_CHARACTER = regex.compile(r"\X")  # an extended grapheme cluster: 👨‍👩‍👧 or é is one, though several code points


def byte_alphabet() -> dict[str, int]:
    """The letter that byte-level BPE (GPT-2's) writes for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


@dataclass(frozen=True, eq=False)
class TokenBytes:
    """The UTF-8 bytes of every token, end to end: blob uint8 [sum], offsets int64 [vocabulary + 1]."""

    blob: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, tokens: Iterable[bytes]) -> TokenBytes:
        """From the bytes of the tokens in the order of their ids."""
        parts = list(tokens)
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), offsets)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """int32 [vocabulary]: bytes of each token."""
        return np.diff(self.offsets).astype(np.int32)

    def __getitem__(self, token: int) -> bytes:
        return self.blob[self.offsets[token] : self.offsets[token + 1]].tobytes()

    def boundaries(self, tokens: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """bool [n + 1]: whether a text may be cut before token i without splitting a character as a reader sees it.

        The beginning and the end always may.
        """
        starts = np.cumsum([0, *self.lengths[tokens]])
        text = b"".join(self[int(token)] for token in tokens).decode("utf-8", "surrogateescape")
        sizes = [len(match.group().encode("utf-8", "surrogateescape")) for match in _CHARACTER.finditer(text)]
        return np.isin(starts, np.cumsum([0, *sizes]))
