"""Errors as OpenAI's API gives them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse


class ApiError(Exception):
    """What the client gets instead of an answer: `{"error": {message, type, param, code}}` and a status."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)

    def content(self) -> dict[str, Any]:
        """The JSON body."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer; a client that came too early is told when to come again."""
        headers = {"Retry-After": "1"} if self.status == 429 else None
        return JSONResponse(self.content(), self.status, headers)


_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
