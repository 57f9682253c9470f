"""What surrounds every request: its id, the bound on its body, its count and time, its log line.

Plain ASGI, because a middleware that builds request and response objects costs more than a cached answer.
"""

import logging
import re
import secrets
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import BodyTooLarge, crash, render
from app.settings import Settings
from app.structured_logging import FIELDS, REQUEST_ID
from app.telemetry import Telemetry
from app.traffic import Traffic

SOURCE = "tessera_source"
"""Key of the ASGI scope under which a route leaves the source of its answer."""

_logger = logging.getLogger(__name__)
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestBoundary:
    """Wraps an ASGI application.

    Args:
        app: what answers.
        settings: body bound, access log.
        telemetry: counts and times.
        traffic: counts recommendations by minute.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, telemetry: Telemetry, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic
        self._settings = settings
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = perf_counter()
        status, started = 500, False
        scope["request_id"] = request_id = _request_id(scope)
        token = REQUEST_ID.set(request_id)

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            bounded = await _bounded(scope, receive, self._settings.max_body_bytes)
            if bounded is None:
                await render(BodyTooLarge(), request_id)(scope, receive, send_with_id)
            else:
                await self._app(scope, bounded, send_with_id)
        except Exception:
            # The end of the line for a defect: logged whole, shown as nothing but its id.
            _logger.exception("request failed", extra={FIELDS: {"route": _route(scope)}})
            if started:
                raise
            await crash(request_id)(scope, receive, send_with_id)
        finally:
            self._record(scope, status, perf_counter() - begin)
            REQUEST_ID.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        source = scope.get(SOURCE, "")
        self._telemetry.requests.labels(scope["method"], route, status).inc()
        self._telemetry.request_seconds.labels(route, source).observe(seconds)
        if source:
            self._traffic.answered(source, seconds)
        if status >= 500:
            self._traffic.failed()
        if self._settings.access_log or status >= 500:
            # The route's template, never the path: paths hold user ids.
            fields = {"method": scope["method"], "route": route, "status": status, "source": source}
            _logger.info("request", extra={FIELDS: {**fields, "ms": round(seconds * 1000, 3)}})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value.decode())
    return secrets.token_hex(8)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", None) or "unmatched"


async def _bounded(scope: Scope, receive: Receive, limit: int) -> Receive | None:
    """A `receive` for a body within the limit, None when it is larger."""
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length")
    if declared is not None:
        # The server holds the sender to the length it declared.
        return receive if declared.isdigit() and int(declared) <= limit else None
    if b"transfer-encoding" not in headers:
        return receive
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            break
    whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replay() -> Message:
        nonlocal whole
        if whole is None:
            return await receive()
        message, whole = whole, None
        return message

    return replay
