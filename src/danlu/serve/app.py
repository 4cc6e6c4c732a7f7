"""The server: OpenAI's API over the engine, and a chat page."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from danlu.infer.model import Model
from danlu.infer.score import require_tokens
from danlu.ledger.errors import UserError
from danlu.serve.api import Api
from danlu.serve.errors import ApiError
from danlu.serve.guard import Guard
from danlu.serve.settings import ServeSettings
from danlu.serve.worker import Worker

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def serve(model: Model, settings: ServeSettings) -> None:
    """Serves until Ctrl-C or SIGTERM. Raises UserError for a reward model, and where the address is not to be had."""
    require_tokens(model.decoder)
    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"{settings.name or model.name}: page {shown}/  API {shown}/v1  (Ctrl-C ends)", file=sys.stderr)
    config = uvicorn.Config(create_app(model, settings), log_level="warning", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    except (KeyboardInterrupt, SystemExit):  # uvicorn raises the signal again once everything is closed
        if not server.started:
            raise


def listen(settings: ServeSettings) -> socket.socket:
    """A socket that listens on the address. Raises UserError when it is taken or is not this machine's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}",
            do="choose another port, such as port=8001 or port=0 for a free one",
        ) from None


def create_app(model: Model, settings: ServeSettings) -> FastAPI:
    """The ASGI application; its engine thread runs from startup to shutdown."""
    name, created = settings.name or model.name, int(time.time())
    worker = Worker(model, model.engine.max_batch + settings.queue)
    api = Api(model, name, worker, settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        with worker:
            yield

    app = FastAPI(title="danlu", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, settings=settings)
    app.add_api_route("/v1/chat/completions", api.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", api.complete, methods=["POST"], response_model=None)

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [described(one) for one in api.names]}

    @app.get("/v1/models/{model_id:path}")
    async def one_model(model_id: str) -> dict[str, object]:
        api.require(model_id)
        return described(model_id)

    def described(one: str) -> dict[str, object]:
        extra = {"max_model_len": model.engine.window, "chat_template": model.template is not None}
        return {"id": one, "object": "model", "created": created, "owned_by": "danlu", **extra}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/", response_model=None)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed; its log says why").response()

    return app
