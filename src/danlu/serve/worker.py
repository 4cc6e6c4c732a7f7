"""The thread that steps the engine, and the answers that it writes for the server's event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from danlu.infer.engine import Event, Finish, Request
from danlu.infer.model import Model
from danlu.infer.settings import SamplingSettings
from danlu.serve.errors import ApiError

Ask = tuple[Sequence[int], SamplingSettings]


@dataclass(frozen=True, slots=True)
class Delta:
    """What one new token adds to choice `index`; `finish` on its last."""

    index: int
    text: str
    event: Event
    finish: Finish | None


class Answers:
    """The choices of one API request, as an asynchronous iterator of `Delta` until all have ended."""

    def __init__(self, model: Model, asks: Sequence[Ask], adapter: str | None) -> None:
        self.asks, self._adapter = asks, adapter
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self._requests: list[Request] = []

    async def __aiter__(self) -> AsyncIterator[Delta]:
        left = len(self.asks)
        while left:
            delta = await self.next()
            left -= delta.finish is not None
            yield delta

    async def next(self) -> Delta:
        """The next piece of any choice. Raises ApiError 500 when the model broke."""
        news = await self._news.get()
        if isinstance(news, Exception):
            raise ApiError(500, f"the model failed: {news}")
        return news

    def start(self) -> None:
        """Puts the prompts into the engine; for the engine's thread."""
        for index, (prompt, sampling) in enumerate(self.asks):
            self._requests.append(self._model.submit(prompt, sampling, self._watch(index), self._adapter))

    def stop(self) -> None:
        """Frees the rows; for the engine's thread."""
        for request in self._requests:
            self._model.engine.cancel(request)

    def fail(self, error: Exception) -> None:
        """Ends all choices with an error; for the engine's thread."""
        self.stop()
        self._tell(error)

    def _watch(self, index: int) -> Callable[[str, Event, Finish | None], None]:
        return lambda text, event, finish: self._tell(Delta(index, text, event, finish))

    def _tell(self, news: Delta | Exception) -> None:
        self._loop.call_soon_threadsafe(self._news.put_nowait, news)


class Worker:
    """Steps the engine in a thread of its own while there is something to answer.

    `limit` bounds the choices that are being written or wait. Apart from `_run` all of it belongs to the event loop.
    """

    def __init__(self, model: Model, limit: int) -> None:
        self.model, self.limit = model, limit
        self.load = 0
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._live: set[Answers] = set()  # touched by the engine's thread alone
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()

    def answer(self, asks: Sequence[Ask], adapter: str | None = None) -> Answers:
        """Starts to answer; who calls this calls `release` in the end. Raises ApiError 429 when there is no room.

        `adapter` is one of the model's voices; None: its first.
        """
        if self.load + len(asks) > self.limit:
            raise ApiError(429, f"{self.load} answers are being written or wait already: try again later")
        answers = Answers(self.model, asks, adapter)
        self.load += len(asks)

        def start() -> None:
            self._live.add(answers)
            answers.start()

        self._jobs.put(start)
        return answers

    def release(self, answers: Answers) -> None:
        """Frees what the answers still hold, finished or not."""
        self.load -= len(answers.asks)

        def stop() -> None:
            self._live.discard(answers)
            answers.stop()

        self._jobs.put(stop)

    def _run(self) -> None:
        engine = self.model.engine
        while True:
            try:
                while not self._jobs.empty() or not (engine.running or engine.waiting):
                    job = self._jobs.get()
                    if job is None:
                        return
                    job()
                engine.step()
            except Exception as error:  # whatever broke the model, those who wait for it must hear of it
                for answers in self._live:
                    answers.fail(error)
                self._live.clear()
