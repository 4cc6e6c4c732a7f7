"""Answers in the form of OpenAI's API, whole and in parts."""

from __future__ import annotations

import time
import uuid
from typing import Any

from danlu.infer.engine import TokenLogp
from danlu.tokens.decode import StreamDecoder
from danlu.tokens.tokenizer import Tokenizer

Logged = tuple[int, TokenLogp, int]  # a token of the answer, its log-probability, and its place in the text


class Places:
    """Where in the text of an answer each of its tokens begins, in characters, as the text shows them.

    A token that begins inside a character stands where that character does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder, self._known = StreamDecoder(tokenizer), tokenizer.vocab_size
        self._next = 0

    def take(self, token: int) -> int:
        """The place of the next token."""
        place = self._next
        if token < self._known:
            self._next += len(self._decoder.push(token))
        return place


class ChatForm:
    """How answers of /v1/chat/completions look."""

    prefix, whole_object, part_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def first(self, index: int) -> dict[str, Any] | None:
        """The part that opens a choice."""
        return _choice(index, delta={"role": "assistant", "content": ""})

    def part(self, index: int, text: str, logged: list[Logged] | None) -> dict[str, Any]:
        """A part of a choice's text."""
        return _choice(index, self._logprobs(logged), delta={"content": text})

    def last(self, index: int, finish: str) -> dict[str, Any]:
        """The part that closes a choice."""
        return _choice(index, finish=finish, delta={})

    def whole(self, index: int, text: str, logged: list[Logged] | None, finish: str) -> dict[str, Any]:
        """A choice that was not streamed."""
        return _choice(index, self._logprobs(logged), finish, message={"role": "assistant", "content": text})

    def _logprobs(self, logged: list[Logged] | None) -> dict[str, Any] | None:
        if logged is None:
            return None
        return {
            "content": [
                {**self._token(token, logp.logp), "top_logprobs": [self._token(*entry) for entry in logp.top]}
                for token, logp, _ in logged
            ]
        }

    def _token(self, token: int, logp: float) -> dict[str, Any]:
        return {
            "token": token_text(self.tokenizer, token),
            "logprob": logp,
            "bytes": list(token_bytes(self.tokenizer, token)),
        }


class TextForm:
    """How answers of /v1/completions look."""

    prefix, whole_object, part_object = "cmpl-", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def first(self, index: int) -> dict[str, Any] | None:
        return None

    def part(self, index: int, text: str, logged: list[Logged] | None) -> dict[str, Any]:
        return _choice(index, self._logprobs(logged), text=text)

    def last(self, index: int, finish: str) -> dict[str, Any]:
        return _choice(index, finish=finish, text="")

    def whole(self, index: int, text: str, logged: list[Logged] | None, finish: str) -> dict[str, Any]:
        return _choice(index, self._logprobs(logged), finish, text=text)

    def _logprobs(self, logged: list[Logged] | None) -> dict[str, Any] | None:
        if logged is None:
            return None
        texts = [token_text(self.tokenizer, token) for token, _, _ in logged]
        top = [{token_text(self.tokenizer, token): logp for token, logp in entry.top} for _, entry, _ in logged]
        return {
            "tokens": texts,
            "token_logprobs": [entry.logp for _, entry, _ in logged],
            "top_logprobs": top,
            "text_offset": [place for _, _, place in logged],
        }


Form = ChatForm | TextForm


class Envelope:
    """What all parts of one answer share: id, time and model."""

    def __init__(self, form: Form, model: str) -> None:
        self.form, self.model = form, model
        self.id, self.created = form.prefix + uuid.uuid4().hex, int(time.time())

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        """An answer that was not streamed."""
        return self._around(self.form.whole_object, choices) | {"usage": usage}

    def part(self, choices: list[dict[str, Any]], **usage: dict[str, int] | None) -> dict[str, Any]:
        """A part of a stream; `usage` is there, if only null, where the client asked for it."""
        return self._around(self.form.part_object, choices) | usage

    def _around(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens read and written, stop tokens among them."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes of a token; none for rows of the embedding that the tokenizer does not know."""
    return tokenizer.token_bytes[token] if token < tokenizer.vocab_size else b""


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; part of a character shows as a replacement character."""
    return token_bytes(tokenizer, token).decode("utf-8", "replace")


def _choice(
    index: int, logprobs: dict[str, Any] | None = None, finish: str | None = None, **text: Any
) -> dict[str, Any]:
    return {"index": index, **text, "logprobs": logprobs, "finish_reason": finish}
