"""OpenTelemetry traces: a span for each request, children for its stages, sent to an OTLP/HTTP collector.

Off, and nothing of it loaded, unless `TESSERA_TRACES_ENDPOINT` is set. Spans wait in a bounded queue that a
thread sends off; with a collector that is away they are dropped, and no request waits. Attributes name routes, sources
and versions, never users, items or keys.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.structured_logging import TRACE_ID
from model_store.errors import TesseraError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

_PATH = "/v1/traces"
_QUEUE = 2048
_BATCH = 512
_PAUSE_MS = 1000
_EXPORT_TIMEOUT_S = 5
_PROPAGATED = (b"traceparent", b"tracestate")


class TracingUnusable(TesseraError):
    """Traces are asked for and cannot be sent."""


class Tracing:
    """Makes and sends the spans of this process.

    Args:
        endpoint: of the collector; /v1/traces is added where it has no path. Headers that the collector asks for are
            read from OTEL_EXPORTER_OTLP_HEADERS by the exporter.
        share: of the requests without a `traceparent`, which share is traced; others follow their caller.
        service: what this process is called.

    Raises:
        TracingUnusable: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, share: float, service: str) -> None:
        check_tracing(endpoint)
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._context, self._trace = context, trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": service, "service.version": version("tessera")}),
            shutdown_on_exit=False,
        )
        url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + _PATH
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(url, timeout=_EXPORT_TIMEOUT_S),
                max_queue_size=_QUEUE,
                max_export_batch_size=_BATCH,
                schedule_delay_millis=_PAUSE_MS,
                export_timeout_millis=_EXPORT_TIMEOUT_S * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("tessera")

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> "RequestSpan":
        """Begin a request's span, as a child of its caller's if the headers name one. It is current until its `end`."""
        carrier = {name.decode(): value.decode("latin-1") for name, value in headers if name in _PROPAGATED}
        parent = self._propagator.extract(carrier, self._context.Context())
        span = self._tracer.start_span("request", parent, kind=self._trace.SpanKind.SERVER)
        token = self._context.attach(self._trace.set_span_in_context(span, parent))
        return RequestSpan(self, span, token)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A child of the current span, current within the block."""
        with self._tracer.start_as_current_span(name, record_exception=False):
            yield

    def here(self) -> "Context":
        """The current span, for `record`."""
        return self._context.get_current()

    def record(self, name: str, parent: "Context", seconds: float, ended_ago_s: float = 0.0, **said: Any) -> None:
        """A child of another task's span, after the fact."""
        end = time.time_ns() - int(ended_ago_s * 1e9)
        span = self._tracer.start_span(name, parent, start_time=end - int(seconds * 1e9), attributes=said)
        span.end(end)

    def note(self, **said: Any) -> None:
        """Add attributes to the current span, as `tessera.NAME`."""
        self._trace.get_current_span().set_attributes({f"tessera.{name}": value for name, value in said.items()})

    def outgoing(self) -> dict[str, str]:
        """Headers by which whoever is asked next continues the current span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def close(self) -> None:
        """Send what is waiting, for five seconds at most, and stop."""
        # With a collector that takes and never answers, the library would wait for every batch.
        stopping = threading.Thread(target=self._provider.shutdown, name="traces-shutdown", daemon=True)
        stopping.start()
        stopping.join(_EXPORT_TIMEOUT_S)


class RequestSpan:
    """The span of one request."""

    def __init__(self, tracing: Tracing, span: "Span", token: Any) -> None:
        self._tracing = tracing
        self._span = span
        self._token = token
        self._log_token = TRACE_ID.set(_trace_id(span))

    def end(self, method: str, route: str, status: int, **said: Any) -> None:
        """End it; what is said becomes attributes, as `tessera.NAME`."""
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                **{f"tessera.{name}": value for name, value in said.items()},
            }
        )
        if status >= 500:
            self._span.set_status(self._tracing._trace.StatusCode.ERROR)
        self._span.end()
        TRACE_ID.reset(self._log_token)
        self._tracing._context.detach(self._token)


def check_tracing(endpoint: str | None) -> None:
    """Find out whether traces that are asked for could be made.

    Raises:
        TracingUnusable: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return
    try:
        for name in ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
            import_module(name)
    except ImportError as error:
        raise TracingUnusable(
            f"TESSERA_TRACES_ENDPOINT is set and {error.name} is not installed: pip install 'tessera[tracing]', "
            "or leave the variable out"
        ) from None


def open_tracing(endpoint: str | None, share: float, service: str) -> Tracing | None:
    """Traces as the settings want them, None where they want none.

    Raises:
        TracingUnusable: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return None
    # One line for each batch that could not be sent is enough.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    return Tracing(endpoint, share, service)


def _trace_id(span: "Span") -> str | None:
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.trace_flags.sampled else None
