"""Requests in the form of OpenAI's API, with the sampling fields that vLLM adds."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails, from_json

from danlu.infer.settings import SamplingSettings
from danlu.serve.errors import ApiError
from danlu.text.records import Message

MAX_CHOICES = 16
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool = False


class SamplingRequest(BaseModel, ABC):
    """The fields that both endpoints know; null is as good as absent. Unknown ones are kept, to be named."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    no_repeat_ngram: int | None = Field(None, ge=0)

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Checks a request's body. Raises ApiError 400 naming the first field that is wrong."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            errors = error.errors()
            first = next((one for one in errors if not _of_another_type(one)), errors[0])
            param = _param(from_json(body), first["loc"]) if first["type"] != "json_invalid" else None
            told = _foreign(body) or first["msg"].removeprefix("Value error, ")
            raise ApiError(400, f"{param}: {told}" if param else told, param=param) from None

    @property
    def ignored(self) -> list[str]:
        """Fields that this server does not know."""
        return sorted(self.model_extra or {})

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, default_max_tokens: int) -> list[SamplingSettings]:
        """Settings of each of the n choices; with a seed, each has its own."""
        given = self.model_dump(include=_SAMPLED, exclude_none=True)
        given |= {"temperature": given.get("temperature", 1.0), "top_k": max(given.get("top_k", 0), 0)}
        given |= {"max_tokens": self.longest() or default_max_tokens, "logprobs": self.alternatives()}
        given |= {"stop": [self.stop] if isinstance(self.stop, str) else self.stop or []}
        seeds = [None if self.seed is None else self.seed + choice for choice in range(self.n or 1)]
        return [SamplingSettings(**given, seed=seed) for seed in seeds]

    def longest(self) -> int | None:
        """The asked-for longest answer."""
        return self.max_tokens

    @abstractmethod
    def alternatives(self) -> int | None:
        """How many likeliest tokens are wanted beside each chosen one; None: no log-probabilities."""


def _of_another_type(error: ErrorDetails) -> bool:
    """Whether a list is told to be no text: where a field takes both, what is wrong with the list says more."""
    return error["type"] == "string_type" and isinstance(error["input"], list)


def _foreign(body: bytes) -> str | None:
    """What is said of a body that is no UTF-8, as of Chinese text in GBK."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8 (byte {error.start} is 0x{body[error.start]:02x}): encode it as UTF-8"
    return None


def _param(body: Any, loc: tuple[str | int, ...]) -> str | None:
    """A field's name, without those of the types that were tried for it."""
    names: list[str] = []
    for step in loc:
        if isinstance(body, dict) and (step in body or step == loc[-1]):
            body = body.get(step)
        elif isinstance(body, list) and isinstance(step, int):
            body = body[step]
        else:
            continue
        names.append(str(step))
    return ".".join(names) or None


_SAMPLED = {
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p", "repetition_penalty",
    "no_repeat_ngram",
}  # fmt: skip


class TextPart(BaseModel):
    """A piece of a message's content; only text is understood."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message; what else it carries (name, tool_calls, ...) goes to the chat template."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    def message(self) -> Message:
        """The message as the chat template takes it."""
        parts = self.content if isinstance(self.content, list) else []
        text = "".join(part.text for part in parts) if parts else self.content or ""
        role = "system" if self.role == "developer" else self.role
        return {**(self.model_extra or {}), "role": role, "content": text}  # type: ignore[typeddict-item]  # extras pass


class ChatRequest(SamplingRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def alternatives(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None


Prompt = str | list[int] | list[str] | list[list[int]]


class CompletionRequest(SamplingRequest):
    """POST /v1/completions."""

    prompt: Prompt
    logprobs: int | None = Field(None, ge=0, le=20)

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_or_tokens(cls, given: Any) -> Any:
        """Refuses what is no prompt in words of its own: those of a union are about one of its types."""
        if isinstance(given, str) or _are_tokens(given):
            return given
        if not isinstance(given, list):
            raise ValueError(f"should be text, token ids, or a list of either, but is {_brief(given)}")
        if not given:
            raise ValueError("is an empty list: give text or token ids")
        if all(map(_is_number, given)):
            wrong = next(one for one in given if not _is_token(one))
            raise ValueError(f"token ids are whole numbers from 0 on, but one is {_brief(wrong)}")
        if len(given) > MAX_CHOICES:
            raise ValueError(f"{len(given)} prompts; a request may have {MAX_CHOICES}")
        fits = _are_tokens if isinstance(given[0], list) else _is_text
        for number, one in enumerate(given):
            if not fits(one):
                raise ValueError(f"prompt {number} of the list should be text or token ids, but is {_brief(one)}")
        return given

    def alternatives(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or many."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


def _is_number(one: Any) -> bool:
    return isinstance(one, int | float)


def _is_token(one: Any) -> bool:
    return type(one) is int and one >= 0


def _are_tokens(given: Any) -> bool:
    return isinstance(given, list) and given != [] and all(map(_is_token, given))


def _is_text(one: Any) -> bool:
    return isinstance(one, str)


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]
