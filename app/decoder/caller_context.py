"""Whose work a decode is: the id in its log lines and the trace it continues, as the API says in its headers."""

import logging
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.request_boundary import request_id_of
from app.structured_logging import FIELDS, REQUEST_ID
from app.tracing import Tracing

_DECODE = "/decode"

_logger = logging.getLogger(__name__)


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
            if scope["path"] == _DECODE:
                await self._decode(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            REQUEST_ID.reset(token)

    async def _decode(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin, status = perf_counter(), 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span = self._tracing.begin(scope["headers"]) if self._tracing is not None else None
        try:
            await self._app(scope, receive, noting_status)
        finally:
            fields = {"status": status, "ms": round((perf_counter() - begin) * 1000, 3)}
            _logger.debug("decode", extra={FIELDS: fields})
            if span is not None:
                span.end(scope["method"], _DECODE, status)
