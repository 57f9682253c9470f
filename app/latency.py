"""Quantiles of request times, read from the Prometheus histogram, so that they are those of all workers together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

from app.telemetry import REQUEST_SECONDS


@dataclass(frozen=True)
class Latency:
    """Request times of one route and source since the server started.

    Attributes:
        count: requests answered.
        p50_ms, p95_ms, p99_ms: interpolated within a histogram bucket, whose bounds are a factor of 1.25 apart.
    """

    route: str
    source: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def latencies(metrics: Iterable[Metric]) -> list[Latency]:
    """Summarise `Telemetry.collect()`, by route and source."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for metric in metrics:
        if metric.name != REQUEST_SECONDS:
            continue
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                labels = sample.labels
                found.setdefault((labels["route"], labels["source"]), {})[float(labels["le"])] = sample.value
    return [_summary(route, source, counts) for (route, source), counts in sorted(found.items())]


def quantile(bounds: Sequence[float], cumulative: Sequence[float], share: float) -> float:
    """The value that `share` of the observations do not exceed, in the unit of the bounds.

    Args:
        bounds: upper bounds of the buckets, ascending, the last infinite.
        cumulative: observations up to each bound.
        share: 0 to 1.

    >>> quantile([1.0, 2.0, math.inf], [0, 10, 10], 0.5)
    1.5
    """
    rank = share * cumulative[-1]
    at = next(i for i, count in enumerate(cumulative) if count >= rank and count > 0)
    low, below = (bounds[at - 1], cumulative[at - 1]) if at else (0.0, 0.0)
    if math.isinf(bounds[at]):
        return low
    return low + (bounds[at] - low) * (rank - below) / (cumulative[at] - below)


def _summary(route: str, source: str, counts: dict[float, float]) -> Latency:
    bounds = sorted(counts)
    cumulative = [counts[bound] for bound in bounds]
    p50, p95, p99 = (round(1000 * quantile(bounds, cumulative, share), 3) for share in (0.5, 0.95, 0.99))
    return Latency(route, source, int(cumulative[-1]), p50, p95, p99)
