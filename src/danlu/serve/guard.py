"""Who may ask: those with the key, or without one only programs and pages of this very server."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from danlu.serve.errors import ApiError
from danlu.serve.settings import ServeSettings

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Refuses requests without the key (401), for every path but the page's own files and /health.

    Where there is no key it refuses what a foreign web page sends through the user's browser (403): requests to a
    foreign host name that points here (DNS rebinding), and those with a foreign Origin.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app = app
        self.key = settings.api_key.encode() if settings.api_key is not None else None
        self.names = LOCAL_NAMES | {settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if error is None:
            await self.app(scope, receive, send)
        else:
            await error.response()(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers, path = Headers(scope=scope), scope["path"]
        if self.key is None:
            return self._foreign(headers)
        if path in ("/", "/health") or path.startswith("/page/"):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.key):
            return None
        return ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _foreign(self, headers: Headers) -> ApiError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname
            if name in self.names and (origin is None or urlsplit(origin).netloc == host):
                return None
        except ValueError:  # brackets that belong to no address
            pass
        return ApiError(403, "this server answers its own page and programs on this machine; set api_key for others")
