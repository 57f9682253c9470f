"""What surrounds every request: its id, the bound on its body, its count and time, its log line.

Plain ASGI, because a middleware that builds request and response objects costs more than a cached answer.
"""

import logging
import re
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http_protocol import WHOLE_ANSWER, header_lines
from app.problems import Problem, crash, render
from app.random_ids import RandomIds
from app.request_limits import RequestLimits
from app.security_headers import SECURITY_HEADERS
from app.settings import Settings
from app.structured_logging import FIELDS, REQUEST_ID
from app.telemetry import Telemetry
from app.traffic import Traffic

SOURCE = "tessera_source"
"""Key of the ASGI scope under which a route leaves the source of its answer."""
JSON_ANSWER = "tessera_json"
"""Key under which what is wrapped may leave the JSON of a 200, instead of sending it."""

_UNTRACED = ("/health/", "/api/health/", "/metrics")
"""Asked every few seconds by machines."""

_logger = logging.getLogger(__name__)
_REQUEST_IDS = RandomIds(8)
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_JSON = (b"content-type", b"application/json")
_LAST_LINES = header_lines((_JSON, *SECURITY_HEADERS))


class RequestBoundary:
    """Wraps an ASGI application.

    Args:
        app: what answers.
        settings: limits, access log.
        telemetry: counts and times.
        traffic: counts recommendations by minute.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, telemetry: Telemetry, traffic: Traffic) -> None:
        self._app = app
        self._access_log = settings.access_log
        self._traffic = traffic
        self._telemetry = telemetry
        self._limits = RequestLimits(settings)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = perf_counter()
        status, started = 500, False
        request_id, declared, chunked, origin = _headers(scope)
        scope["request_id"] = request_id
        token = REQUEST_ID.set(request_id)
        tracing = self._telemetry.tracing
        span = None
        if tracing is not None and not scope["path"].startswith(_UNTRACED):
            span = tracing.begin(scope["headers"])

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
            await send(message)

        self._in_flight += 1
        try:
            self._limits.check(scope, self._in_flight)
            if declared is not None or chunked:
                receive = await self._limits.bounded(declared, receive)
            await self._app(scope, receive, send_with_id)
            if (body := scope.get(JSON_ANSWER)) is not None:
                status = 200
                # To an answer for a page of another origin, a layer around this one may add headers.
                if origin or not _answered_whole(scope, request_id, body):
                    await _send_json(body, send_with_id)
        except Problem as refused:
            await render(refused, request_id)(scope, receive, send_with_id)
        except Exception:
            # The end of the line for a defect: logged whole, shown as nothing but its id.
            _logger.exception("request failed", extra={FIELDS: {"route": _route(scope)}})
            if started:
                raise
            await crash(request_id)(scope, receive, send_with_id)
        finally:
            self._in_flight -= 1
            self._record(scope, status, perf_counter() - begin)
            if span is not None:
                said = {"source": scope.get(SOURCE, ""), "request_id": request_id}
                span.end(scope["method"], _route(scope), status, **said)
            REQUEST_ID.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        source = scope.get(SOURCE, "")
        self._telemetry.request_done(scope["method"], route, status, source, seconds)
        if source:
            self._traffic.answered(source, seconds)
        if status >= 500:
            self._traffic.failed()
        if self._access_log or status >= 500:
            # The route's template, never the path: paths hold user ids.
            fields = {"method": scope["method"], "route": route, "status": status, "source": source}
            _logger.info("request", extra={FIELDS: {**fields, "ms": round(seconds * 1000, 3)}})


def request_id_of(scope: Scope) -> str:
    """The caller's id of this request where it is harmless, a new one otherwise."""
    return _headers(scope)[0]


def _answered_whole(scope: Scope, request_id: str, body: bytes) -> bool:
    """Send an answer in one piece, where the server offers that."""
    extensions = scope.get("extensions")
    if extensions is None or (answer_whole := extensions.get(WHOLE_ANSWER)) is None:
        return False
    head = b"content-length: %d\r\nx-request-id: %b\r\n%b" % (len(body), request_id.encode(), _LAST_LINES)
    return bool(answer_whole(head, body))


async def _send_json(body: bytes, send: Send) -> None:
    headers = [(b"content-length", b"%d" % len(body)), _JSON]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> tuple[str, bytes | None, bool, bool]:
    """The request's id, ours where it brings none; the length it declares; whether it comes in chunks, is a page's."""
    request_id, declared, chunked, origin = None, None, False, False
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if request_id is None and _SANE_ID.fullmatch(value):
                request_id = value.decode()
        elif name == b"content-length":
            declared = value
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"origin":
            origin = True
    return request_id or _REQUEST_IDS.next(), declared, chunked, origin


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", None) or "unmatched"
