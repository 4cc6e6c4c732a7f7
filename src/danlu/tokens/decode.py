"""Text that arrives token by token."""

from __future__ import annotations

import codecs

from danlu.tokens.tokenizer import Tokenizer


class StreamDecoder:
    """Text from tokens that come one at a time: a character is given out when its last byte is there.

    `skip_special` leaves special tokens out of the text. All pushes and the flush together give what
    `Tokenizer.decode` gives for the whole.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._bytes = tokenizer.token_bytes
        self._hidden = tokenizer.special_ids if skip_special else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drop_space = tokenizer.adds_space

    def push(self, token: int) -> str:
        """The text that this token completes: empty for hidden tokens and for part of a character."""
        return "" if token in self._hidden else self._given(self._decoder.decode(self._bytes[token]))

    def flush(self) -> str:
        """What is left at the end: a replacement character where a character stayed incomplete."""
        return self._given(self._decoder.decode(b"", final=True))

    def _given(self, text: str) -> str:
        if self._drop_space and text:
            self._drop_space = False
            return text.removeprefix(" ")
        return text
