"""Text of an answer that is still being written: nothing is given out that a later token could take back."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.tokens.decode import StreamDecoder
from danlu.tokens.tokenizer import Tokenizer


class TextStream:
    """Tokens in, text out, up to the first stop string.

    Held back are bytes of an incomplete character and text that may turn out to begin a stop string.
    `stopped` tells that a stop string came; it is no part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._known = tokenizer.vocab_size  # an embedding may have more rows; they have no text
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes certain."""
        if self.stopped or token >= self._known:
            return ""
        self._held += self._decoder.push(token)
        self._cut()
        keep = 0 if self.stopped else self._open()
        given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return given

    def flush(self) -> str:
        """What is left at the end of the answer."""
        if not self.stopped:
            self._held += self._decoder.flush()
            self._cut()
        given, self._held = self._held, ""
        return given

    def _cut(self) -> None:
        """Ends the text before the stop string that is complete first."""
        ends = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            self._held = self._held[: min(ends)[1]]

    def _open(self) -> int:
        """How many of the last characters may begin a stop string."""
        longest = min(max(map(len, self._stop), default=1) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stop)), 0)
