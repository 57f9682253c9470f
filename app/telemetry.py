"""What is counted and timed, and the Prometheus text of it.

With several workers each process keeps its numbers in PROMETHEUS_MULTIPROC_DIR and whichever worker is asked adds them
up. The library decides that from the environment when it is imported, so `app.main.serve` sets the variable before any
worker starts.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app.batched_metrics import MetricBatches
from app.latency_windows import LatencyWindows
from app.process_metrics import ProcessGauges
from app.structured_logging import TRACE_ID
from app.tracing import Tracing

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_FASTEST_S, _SLOWEST_S, _STEP = 50e-6, 30.0, 1.25


def latency_buckets() -> tuple[float, ...]:
    """Bucket bounds in seconds, each 1.25 times the one before: a quantile read from them is at most 25 % too high."""
    bounds = [_FASTEST_S]
    while bounds[-1] < _SLOWEST_S:
        bounds.append(float(f"{bounds[-1] * _STEP:.4g}"))
    return tuple(bounds)


class ByLabels(dict[tuple[Any, ...], Any]):
    """A metric's children by their label values, in batches: the library looks them up slower, behind a lock."""

    def __init__(self, metric: Counter | Histogram, batches: MetricBatches) -> None:
        super().__init__()
        self._metric = metric
        self._batches = batches

    def __missing__(self, labels: tuple[Any, ...]) -> Any:
        child = self._metric.labels(*labels)
        batches = self._batches
        part = batches.histogram(child) if isinstance(child, Histogram) else batches.counter(child)
        self[labels] = part
        return part


class Telemetry:
    """One application's metrics, in a registry of its own, and its traces.

    Args:
        tracing: where spans go; None for nowhere.
        clock: Unix seconds, of the windows of `latency`.
    """

    def __init__(self, tracing: Tracing | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.tracing = tracing
        self._registry = registry = CollectorRegistry()
        self._folder = os.environ.get(MULTIPROCESS_VARIABLE)
        self.batches = MetricBatches()
        self._record: dict[tuple[str, str, int, str], Callable[[float], None]] = {}
        buckets = latency_buckets()
        self.latency = LatencyWindows(buckets, Path(self._folder) if self._folder else None, clock=clock)
        self.requests = Counter(
            "tessera_requests",
            "Requests answered, of every status; source of the answer where it has one.",
            ("method", "route", "status", "source"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "tessera_request_seconds",
            "Time from the request's first byte read to its last byte sent; source of the answer where it has one.",
            ("route", "source"),
            registry=registry,
            buckets=buckets,
        )
        self._request_seconds = ByLabels(self.request_seconds, self.batches)
        self.stage_seconds = Histogram(
            "tessera_stage_seconds",
            "Time in one stage of a recommendation.",
            ("stage",),
            registry=registry,
            buckets=buckets,
        )
        self.stage_by_name = ByLabels(self.stage_seconds, self.batches)
        self.items = Counter(
            "tessera_items", "Items recommended, by the part that gave them.", ("reason",), registry=registry
        )
        self.degraded = Counter(
            "tessera_degraded", "Recommendations in which a part that should have answered did not.", registry=registry
        )
        self.short = Counter(
            "tessera_short_lists", "Recommendations with fewer items than asked for.", ("reason",), registry=registry
        )
        self.not_applied = Counter(
            "tessera_options_not_applied",
            "Recommendations made without an option that was asked for (q, within), and why.",
            ("option", "reason"),
            registry=registry,
        )
        self.scenarios = Counter(
            "tessera_scenario_answers",
            "Recommendations with a scenario, by its name.",
            ("scenario",),
            registry=registry,
        )
        self.personal_answers = Counter(
            "tessera_personal_answers",
            "Recommendations, without a query, to users with a history; fresh: from a fresh entry or decoded for it.",
            ("fresh",),
            registry=registry,
        )
        self.freshness_dropped = Counter(
            "tessera_freshness_dropped",
            "Answers that a refresh will not hear of, because Redis did not take their counts (redis) or too many "
            "users were left wanting in one second (full).",
            ("reason",),
            registry=registry,
        )
        self.write_back_dropped = Counter(
            "tessera_write_back_dropped",
            "Answers that were not written back as read, because Redis did not take them (redis) or too many were "
            "waiting (full).",
            ("reason",),
            registry=registry,
        )
        self.popular_dropped = Counter(
            "tessera_popular_events_dropped",
            "Events that windows of popular items miss, because Redis did not take their counts (redis) or too many "
            "were waiting (full).",
            ("reason",),
            registry=registry,
        )
        self.recommended_items = Counter(
            "tessera_recommended_items",
            "Items of answers whose events are counted.",
            ("source", "model_version"),
            registry=registry,
        )
        self.recommended_items_with_event = Counter(
            "tessera_recommended_items_with_event",
            "Those of them that got an event within the window; each item of an answer once.",
            ("source", "model_version"),
            registry=registry,
        )
        self.attribution_dropped = Counter(
            "tessera_attribution_dropped",
            "Answers and events that online quality misses, because Redis did not take them (redis) or too many were "
            "waiting (full).",
            ("what", "reason"),
            registry=registry,
        )
        self.cache_age_seconds = self.batches.histogram(
            Histogram(
                "tessera_cache_age_seconds",
                "Age of the entries answers came from.",
                registry=registry,
                buckets=(60, 600, 3600, 6 * 3600, 86400, 2 * 86400, 7 * 86400, 14 * 86400),
            )
        )
        self.cache_unavailable = Counter(
            "tessera_cache_unavailable",
            "Redis calls that failed or were not tried.",
            ("operation", "kind"),
            registry=registry,
        )
        self.cache_unreadable = Counter(
            "tessera_cache_unreadable", "Entries that could not be read and counted as missing.", registry=registry
        )
        self.live_unavailable = Counter(
            "tessera_live_unavailable", "Live decodes that gave no answer.", ("reason",), registry=registry
        )
        self.refreshes = Counter(
            "tessera_background_refreshes", "Background refreshes of single users.", ("outcome",), registry=registry
        )
        self.refresh_queue = Gauge(
            "tessera_background_refresh_queue",
            "Users that wait for a background refresh.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.events = Counter("tessera_events", "Events received.", ("outcome", "attributed"), registry=registry)
        self.item_changes = Counter("tessera_item_changes", "Changes of items accepted.", registry=registry)
        self.item_publishes = Counter(
            "tessera_item_publishes", "Versions published for new items.", ("outcome",), registry=registry
        )
        self.model_swaps = Counter(
            "tessera_model_swaps", "Changes of the served version.", ("outcome",), registry=registry
        )

        self.process = ProcessGauges(registry)
        build = Gauge(
            "tessera_build_info", "1; the version of Tessera.", ("version",), registry=registry, multiprocess_mode="max"
        )
        build.labels(version("tessera")).set(1)

    def request_done(self, method: str, route: str, status: int, source: str, seconds: float) -> None:
        """Count a request that was answered."""
        key = (method, route, status, source)
        try:
            record = self._record[key]
        except KeyError:
            record = self._record[key] = self._recorder(*key)
        record(seconds)

    @contextmanager
    def stage(self, name: str, timings_ms: dict[str, float]) -> Iterator[None]:
        """Time a stage of one answer, for its explanation, for the histogram and as a span."""
        begin = perf_counter()
        try:
            # Only what is in a trace has its id.
            if self.tracing is None or TRACE_ID.get() is None:
                yield
            else:
                with self.tracing.span(name):
                    yield
        finally:
            seconds = perf_counter() - begin
            timings_ms[name] = timings_ms.get(name, 0.0) + seconds * 1000
            self.stage_by_name[name,].observe(seconds)

    def stage_done(self, name: str, seconds: float) -> None:
        """Note a stage that has just ended, for the histogram and as a span."""
        self.stage_by_name[name,].observe(seconds)
        if self.tracing is not None and TRACE_ID.get() is not None:
            self.tracing.record(name, self.tracing.here(), seconds)

    def exposition(self) -> bytes:
        """The Prometheus text of all workers; of others, as of some hundredths of a second ago."""
        self.batches.count()
        return generate_latest(self._all_workers())

    def close(self) -> None:
        """Take this process's gauges out of the sums, and send what spans are left; its counts stay."""
        self.batches.count()
        if self._folder is not None:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
        if self.tracing is not None:
            self.tracing.close()

    def _recorder(self, method: str, route: str, status: int, source: str) -> Callable[[float], None]:
        """What counts a request of one kind: looking up labels each time would take longer than counting."""
        count = self.batches.counter(self.requests.labels(method, route, status, source)).inc
        observe = self._request_seconds[route, source].observe
        in_windows = partial(self.latency.record, self.latency.series(route, source))

        def record(seconds: float) -> None:
            count()
            observe(seconds)
            in_windows(seconds)

        return record

    def _all_workers(self) -> CollectorRegistry:
        if self._folder is None:
            return self._registry
        # A worker that was killed could not take its gauges away itself.
        for pid in {int(path.stem.rpartition("_")[2]) for path in Path(self._folder).glob("gauge_live*.db")}:
            if not _is_alive(pid):
                mark_process_dead(pid)  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


def _is_alive(pid: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
