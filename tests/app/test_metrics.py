"""What operators see: counts of every status, and quantiles that are right."""

import math

import numpy as np
import pytest

from app.latency import latencies, quantile
from app.telemetry import Telemetry, latency_buckets
from tests.app.conftest import Cache, RunningApp


@pytest.mark.anyio
async def test_every_status_and_source_is_counted(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    for path in ("/recommend/ann?n=2", "/recommend/ann?n=2", "/recommend/nobody?n=2", "/recommend/ann?n=0", "/nothing"):
        await api.client.get(path)
    text = (await api.client.get("/metrics")).text
    assert 'tessera_requests_total{method="GET",route="/recommend/{user_id}",status="200"} 3.0' in text
    assert 'tessera_requests_total{method="GET",route="/recommend/{user_id}",status="422"} 1.0' in text
    assert 'tessera_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'tessera_request_seconds_count{route="/recommend/{user_id}",source="cache"} 2.0' in text
    assert 'tessera_request_seconds_count{route="/recommend/{user_id}",source="popular"} 1.0' in text
    assert 'tessera_items_total{reason="cache"} 4.0' in text
    assert "ann" not in text


@pytest.mark.anyio
async def test_latency_is_by_route_and_source(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    for _ in range(20):
        await api.client.get("/recommend/ann?n=2")
    found = {(one["route"], one["source"]): one for one in (await api.client.get("/latency")).json()["latencies"]}
    cached = found["/recommend/{user_id}", "cache"]
    assert cached["count"] == 20
    assert 0 < cached["p50_ms"] <= cached["p95_ms"] <= cached["p99_ms"] < 1000


def test_quantiles_agree_with_the_observations() -> None:
    telemetry = Telemetry()
    seconds = np.random.default_rng(0).lognormal(mean=-6, sigma=1, size=5000)
    for second in seconds:
        telemetry.request_seconds.labels("/x", "cache").observe(second)
    (found,) = latencies(telemetry.collect())
    for share, milliseconds in ((50, found.p50_ms), (95, found.p95_ms), (99, found.p99_ms)):
        assert milliseconds == pytest.approx(1000 * np.percentile(seconds, share), rel=0.12)


@pytest.mark.parametrize(
    ("cumulative", "share", "expected"),
    [([10, 10, 10], 0.5, 0.5), ([0, 10, 10], 0.5, 1.5), ([0, 0, 10], 0.5, 2.0), ([5, 10, 10], 0.5, 1.0)],
)
def test_quantile_by_hand(cumulative: list[float], share: float, expected: float) -> None:
    assert quantile([1.0, 2.0, math.inf], cumulative, share) == expected


def test_buckets_are_fine_enough() -> None:
    bounds = np.array(latency_buckets())
    assert bounds[0] <= 1e-4
    assert bounds[-1] >= 30
    assert (bounds[1:] / bounds[:-1]).max() < 1.251
