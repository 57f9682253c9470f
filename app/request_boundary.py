"""What surrounds every request: its id, the bound on its body, its count and time, its log line.

Plain ASGI, because a middleware that builds request and response objects costs more than a cached answer.
"""

import logging
import re
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import BodyTooLarge, crash, render
from app.random_ids import RandomIds
from app.settings import Settings
from app.structured_logging import FIELDS, REQUEST_ID
from app.telemetry import ByLabels, Telemetry

SOURCE = "tessera_source"
"""Key of the ASGI scope under which a route leaves the source of its answer."""

_logger = logging.getLogger(__name__)
_REQUEST_IDS = RandomIds(8)
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestBoundary:
    """Wraps an ASGI application.

    Args:
        app: what answers.
        settings: body bound, access log.
        telemetry: counts and times.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, telemetry: Telemetry) -> None:
        self._app = app
        self._max_body_bytes = settings.max_body_bytes
        self._access_log = settings.access_log
        self._requests = ByLabels(telemetry.requests)
        self._request_seconds = ByLabels(telemetry.request_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = perf_counter()
        status, started = 500, False
        request_id, length, chunked = _headers(scope)
        scope["request_id"] = request_id
        token = REQUEST_ID.set(request_id)

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            bounded: Receive | None = receive
            if length is not None:
                # The server holds the sender to the length it declared.
                bounded = receive if length.isdigit() and int(length) <= self._max_body_bytes else None
            elif chunked:
                bounded = await _bounded(receive, self._max_body_bytes)
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
        self._requests[scope["method"], route, status].inc()
        self._request_seconds[route, source].observe(seconds)
        if self._access_log or status >= 500:
            # The route's template, never the path: paths hold user ids.
            fields = {"method": scope["method"], "route": route, "status": status, "source": source}
            _logger.info("request", extra={FIELDS: {**fields, "ms": round(seconds * 1000, 3)}})


def _headers(scope: Scope) -> tuple[str, bytes | None, bool]:
    """The request's id, ours where it brings none; the length it declares; whether it comes in chunks."""
    request_id, length, chunked = None, None, False
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if request_id is None and _SANE_ID.fullmatch(value):
                request_id = value.decode()
        elif name == b"content-length":
            length = value
        elif name == b"transfer-encoding":
            chunked = True
    return request_id or _REQUEST_IDS.next(), length, chunked


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", None) or "unmatched"


async def _bounded(receive: Receive, limit: int) -> Receive | None:
    """A `receive` for a body of unknown length, None when it turns out larger than the limit."""
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
