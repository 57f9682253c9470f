"""Quantiles of request times within a window, of all workers together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from app.latency_windows import WindowCounts


@dataclass(frozen=True)
class Latency:
    """Request times of one route and source within a window.

    Attributes:
        count: requests answered.
        p50_ms, p90_ms, p95_ms, p99_ms: interpolated within a histogram bucket, whose bounds are a factor of 1.25 apart.
        max_ms: the longest, as measured.
    """

    route: str
    source: str
    count: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def latencies(windows: Iterable[WindowCounts], bounds_s: Sequence[float]) -> list[Latency]:
    """Summarise `LatencyWindows.read()`, whose buckets have these upper bounds."""
    return [_summary(one, (*bounds_s, math.inf)) for one in windows]


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


def _summary(window: WindowCounts, bounds: Sequence[float]) -> Latency:
    cumulative = np.cumsum(window.counts).tolist()
    # Interpolation within the highest bucket may go beyond what was seen.
    p50, p90, p95, p99 = (
        round(1000 * min(quantile(bounds, cumulative, share), window.longest_s), 3) for share in (0.5, 0.9, 0.95, 0.99)
    )
    longest = round(1000 * window.longest_s, 3)
    return Latency(window.route, window.source, int(cumulative[-1]), p50, p90, p95, p99, longest)
