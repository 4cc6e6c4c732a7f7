"""Live servers on loopback."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from openai import OpenAI

from danlu.infer.model import Model, load
from danlu.serve.app import create_app, listen
from danlu.serve.settings import ServeSettings


@dataclass(frozen=True)
class Live:
    """A server that runs, and a client of it."""

    url: str
    model: Model
    client: OpenAI

    def idle(self, seconds: float = 10.0) -> bool:
        """Whether the engine holds no request, within so many seconds."""
        until = time.monotonic() + seconds
        engine = self.model.engine
        while (engine.running or engine.waiting) and time.monotonic() < until:
            time.sleep(0.01)
        return not engine.running and not engine.waiting


@contextlib.contextmanager
def live(model: Model, settings: ServeSettings) -> Iterator[Live]:
    listener = listen(settings)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(create_app(model, settings), log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with OpenAI(base_url=f"{url}/v1", api_key=settings.api_key or "none", timeout=20, max_retries=0) as client:
        yield Live(url, model, client)
    server.should_exit = True
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(reciting_model: Path) -> Iterator[Live]:
    with live(load(reciting_model, max_batch=4), ServeSettings(port=0, queue=12, name="recite")) as running:
        yield running


@pytest.fixture
def start(reciting_model: Path) -> Iterator[Callable[..., Live]]:
    """Starts servers with other settings; they end with the test."""
    with contextlib.ExitStack() as stack:

        def begin(**settings: object) -> Live:
            model = load(reciting_model, max_batch=2)
            return stack.enter_context(live(model, ServeSettings.model_validate({"port": 0, **settings})))

        yield begin
