"""Whose work a decode is: the id in its log lines and the trace it continues, as the API says in its headers."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.request_boundary import request_id_of
from app.structured_logging import REQUEST_ID
from app.tracing import Tracing

_DECODE = "/decode"


class CallerContext:
    """Wraps the decoder's ASGI application.

    Args:
        app: what answers.
        tracing: where spans go; None for nowhere. Health checks and metrics are not traced.
    """

    def __init__(self, app: ASGIApp, *, tracing: Tracing | None) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = request_id_of(scope)
        token = REQUEST_ID.set(request_id)
        try:
            if self._tracing is None or scope["path"] != _DECODE:
                await self._app(scope, receive, send)
            else:
                await self._traced(self._tracing, scope, receive, send)
        finally:
            REQUEST_ID.reset(token)

    async def _traced(self, tracing: Tracing, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span = tracing.begin(scope["headers"])
        try:
            await self._app(scope, receive, noting_status)
        finally:
            span.end(scope["method"], _DECODE, status)
