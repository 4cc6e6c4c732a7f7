"""The two endpoints that write answers, whole and as streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from danlu.infer.model import Model
from danlu.ledger.errors import UserError
from danlu.serve.errors import ApiError
from danlu.serve.forms import ChatForm, Envelope, Form, Logged, Places, TextForm, usage
from danlu.serve.openai import ChatRequest, CompletionRequest, SamplingRequest
from danlu.serve.settings import ServeSettings
from danlu.serve.worker import Answers, Delta, Worker

PING_SECONDS = 15.0
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
HEADER_NAME_LENGTH, HEADER_NAMES = 64, 32


class Api:
    """Reads requests, checks them and writes answers."""

    def __init__(self, model: Model, name: str, worker: Worker, settings: ServeSettings) -> None:
        self.model, self.name, self.worker, self.settings = model, name, worker, settings
        others = {other: other for other in model.voices if other != model.name}
        if name in others:
            raise UserError(f"{name} is what another voice is called", where="name", do="give the model another name")
        self.names = {name: model.name, **others}
        """What a request may name as its model, and the voice that answers then."""

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked = ChatRequest.read(await self._body(request))
        self.require(asked.model)
        messages = [message.message() for message in asked.messages]
        prompt = await self._tokens(partial(self.model.chat_prompt, messages), "messages")
        return await self._answer(request, asked, [prompt], ChatForm(self.model.tokenizer))

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked = CompletionRequest.read(await self._body(request))
        self.require(asked.model)
        prompts = [await self._tokens(partial(self._raw, one), "prompt") for one in asked.prompts()]
        return await self._answer(request, asked, prompts, TextForm(self.model.tokenizer))

    def require(self, model: str | None) -> None:
        """Raises ApiError 404 when a model is asked for that is not here: neither the base nor an adapter."""
        if model is not None and model not in self.names:
            known = ", ".join(map(repr, self.names))
            raise ApiError(404, f"there is no model {model!r}, only {known}", param="model", code="model_not_found")

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self.settings.max_body:
                    raise ApiError(413, f"the request is larger than {self.settings.max_body} bytes")
        except ClientDisconnect:
            raise ApiError(499, "the client went away") from None
        return bytes(body)

    async def _tokens(self, encode: Callable[[], list[int]], param: str) -> list[int]:
        try:
            ids = await run_in_threadpool(encode)
        except UserError as error:
            raise ApiError(400, error.what, param=param) from None
        window = self.model.engine.window
        if not ids:
            raise ApiError(400, "the prompt is empty", param=param)
        if len(ids) >= window:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens and the model's context {window}, which leaves none for an answer",
                param=param,
                code="context_length_exceeded",
            )
        return ids

    def _raw(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.model.raw_prompt(prompt)
        rows = self.model.decoder.settings.vocab_size
        if max(prompt) >= rows:
            raise UserError(f"there is no token {max(prompt)}: the model has {rows}")
        return prompt

    async def _answer(self, request: Request, asked: SamplingRequest, prompts: list[list[int]], form: Form) -> Response:
        samplings = asked.sampling(self.settings.max_tokens)
        name = asked.model or self.name
        asks = [(prompt, sampling) for prompt in prompts for sampling in samplings]
        answers = self.worker.answer(asks, self.names[name])
        writing = _Writing(answers, Envelope(form, name), asked, sum(map(len, prompts)))
        headers = _ignored_header(asked.ignored)
        if asked.stream:
            return _AnswerStream(writing, self.worker, headers)
        try:
            return JSONResponse(await _unless_gone(request, writing.whole()), headers=headers)
        finally:
            self.worker.release(answers)


class _Writing:
    """One API answer in the making."""

    def __init__(self, answers: Answers, envelope: Envelope, asked: SamplingRequest, prompt_tokens: int) -> None:
        self.answers, self.envelope, self.form = answers, envelope, envelope.form
        self.include_usage, self.logs = asked.include_usage, asked.alternatives() is not None
        self.prompt_tokens, self.completion_tokens = prompt_tokens, 0
        self._places = [Places(self.form.tokenizer) for _ in answers.asks]

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        count = len(self.answers.asks)
        texts, logged, finish = [""] * count, [list[Logged]() for _ in range(count)], [""] * count
        async for delta in self.answers:
            texts[delta.index] += delta.text
            logged[delta.index] += self._logged(delta)
            finish[delta.index] = delta.finish or ""
        choices = [
            self.form.whole(index, texts[index], logged[index] if self.logs else None, finish[index])
            for index in range(count)
        ]
        return self.envelope.whole(choices, usage(self.prompt_tokens, self.completion_tokens))

    async def frames(self) -> AsyncIterator[str]:
        """The answer as server-sent events, with a comment now and then while nothing comes."""
        try:
            async for choice in self._parts():
                yield ": ping\n\n" if choice is None else self._frame([choice])
            if self.include_usage:
                total = usage(self.prompt_tokens, self.completion_tokens)
                yield _event(self.envelope.part([], usage=total))
        except ApiError as error:
            yield _event(error.content())
        yield "data: [DONE]\n\n"

    async def _parts(self) -> AsyncIterator[dict[str, Any] | None]:
        count = len(self.answers.asks)
        for first in filter(None, map(self.form.first, range(count))):
            yield first
        logged = [list[Logged]() for _ in range(count)]
        while count:
            try:
                delta = await asyncio.wait_for(self.answers.next(), PING_SECONDS)
            except TimeoutError:
                yield None
                continue
            index, held = delta.index, logged[delta.index]
            held += self._logged(delta)
            if delta.text or (delta.finish and held):
                yield self.form.part(index, delta.text, list(held) if self.logs else None)
                held.clear()
            if delta.finish:
                yield self.form.last(index, delta.finish)
                count -= 1

    def _frame(self, choices: list[dict[str, Any]]) -> str:
        return _event(self.envelope.part(choices, **{"usage": None} if self.include_usage else {}))

    def _logged(self, delta: Delta) -> list[Logged]:
        """The token with its log-probability, where it is wanted and not a stop token; the token is counted."""
        self.completion_tokens += 1
        event = delta.event
        if event.logp is None or event.finish == "stop":
            return []
        return [(event.token, event.logp, self._places[delta.index].take(event.token))]


class _AnswerStream(StreamingResponse):
    """A stream whose answers are released however it ends: whole, broken, or with the client gone."""

    def __init__(self, writing: _Writing, worker: Worker, headers: Mapping[str, str]) -> None:
        super().__init__(writing.frames(), media_type="text/event-stream", headers={**STREAM_HEADERS, **headers})
        self._release = lambda: worker.release(writing.answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


async def _unless_gone(request: Request, work: Any) -> Any:
    """What `work` gives; it is cancelled when the client goes away. Raises ApiError 499 then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "the client went away")
    finally:
        task.cancel()
        gone.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _ignored_header(names: list[str]) -> dict[str, str]:
    shown = [name[:HEADER_NAME_LENGTH] for name in names if name.isascii() and name.isprintable()][:HEADER_NAMES]
    return {"x-ignored-params": ", ".join(shown)} if names else {}
