"""What is counted and timed, and the Prometheus text of it.

With several workers each process keeps its numbers in PROMETHEUS_MULTIPROC_DIR and whichever worker is asked adds them
up. The library decides that from the environment when it is imported, so `app.main.serve` sets the variable before any
worker starts.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
REQUEST_SECONDS = "tessera_request_seconds"

_FASTEST_S, _SLOWEST_S, _STEP = 50e-6, 30.0, 1.25


def latency_buckets() -> tuple[float, ...]:
    """Bucket bounds in seconds, each 1.25 times the one before: a quantile read from them is at most 25 % too high."""
    bounds = [_FASTEST_S]
    while bounds[-1] < _SLOWEST_S:
        bounds.append(float(f"{bounds[-1] * _STEP:.4g}"))
    return tuple(bounds)


class Telemetry:
    """One application's metrics, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._several_workers = MULTIPROCESS_VARIABLE in os.environ
        buckets = latency_buckets()
        self.requests = Counter(
            "tessera_requests", "Requests answered, of every status.", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            REQUEST_SECONDS,
            "Time from the request's first byte read to its last byte sent; source of the answer where it has one.",
            ("route", "source"),
            registry=registry,
            buckets=buckets,
        )
        self.stage_seconds = Histogram(
            "tessera_stage_seconds",
            "Time in one stage of a recommendation.",
            ("stage",),
            registry=registry,
            buckets=buckets,
        )
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
        self.cache_age_seconds = Histogram(
            "tessera_cache_age_seconds",
            "Age of the entries answers came from.",
            registry=registry,
            buckets=(60, 600, 3600, 6 * 3600, 86400, 2 * 86400, 7 * 86400, 14 * 86400),
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

    @contextmanager
    def stage(self, name: str, timings_ms: dict[str, float]) -> Iterator[None]:
        """Time a stage of one answer, for its explanation and for the histogram."""
        begin = perf_counter()
        try:
            yield
        finally:
            seconds = perf_counter() - begin
            timings_ms[name] = timings_ms.get(name, 0.0) + seconds * 1000
            self.stage_seconds.labels(name).observe(seconds)

    def exposition(self) -> bytes:
        """The Prometheus text of all workers."""
        return generate_latest(self._all_workers())

    def collect(self) -> Iterator[Metric]:
        """Every metric of all workers."""
        yield from self._all_workers().collect()

    def close(self) -> None:
        """Take this process's gauges out of the sums; its counts stay."""
        if self._several_workers:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def _all_workers(self) -> CollectorRegistry:
        if not self._several_workers:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
