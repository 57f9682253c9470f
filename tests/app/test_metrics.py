"""What operators see: counts of every status, and quantiles that are right."""

import asyncio
import importlib.metadata
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from app.settings import Settings
from app.telemetry import latency_buckets
from tests.app.conftest import Cache, RunningApp, running


@pytest.mark.anyio
async def test_every_status_and_source_is_counted(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    for path in ("/recommend/ann?n=2", "/recommend/ann?n=2", "/recommend/nobody?n=2", "/recommend/ann?n=0", "/nothing"):
        await api.client.get(path)
    text = (await api.client.get("/metrics")).text
    for source, status, count in (("cache", 200, 2), ("popular", 200, 1), ("", 422, 1)):
        labels = f'method="GET",route="/recommend/{{user_id}}",source="{source}",status="{status}"'
        assert f"tessera_requests_total{{{labels}}} {count}.0" in text
    assert 'tessera_requests_total{method="GET",route="unmatched",source="",status="404"} 1.0' in text
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
    assert 0 < cached["p50_ms"] <= cached["p90_ms"] <= cached["p95_ms"] <= cached["p99_ms"] <= cached["max_ms"] < 1000


@pytest.mark.anyio
async def test_windows_that_are_not_kept_are_refused(api: RunningApp) -> None:
    assert (await api.client.get("/latency")).json()["minutes"] == 5
    for minutes in ("0", "2", "1.5", "hour"):
        assert (await api.client.get(f"/latency?minutes={minutes}")).status_code == 422


@pytest.mark.anyio
async def test_the_process_tells_how_it_is(api: RunningApp, cache: Cache) -> None:
    await api.client.get("/recommend/ann?n=2")
    # The watch looks twice a second.
    await asyncio.sleep(1.1)
    found = {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for metric in text_string_to_metric_families((await api.client.get("/metrics")).text)
        for sample in metric.samples
    }
    assert found["tessera_workers"] == 1
    assert found["tessera_build_info " + importlib.metadata.version("tessera")] == 1
    assert found["tessera_served_model_info light-1"] == 1
    assert 10e6 < found["tessera_process_resident_bytes"] < 10e9
    assert found["tessera_process_cpu_seconds_total"] > 0
    assert found["tessera_process_open_fds"] > 3
    assert found["tessera_process_start_time_seconds"] == pytest.approx(time.time(), abs=60)
    assert found["tessera_event_loop_lag_seconds_count"] >= 1
    assert found["tessera_redis_connections used"] + found["tessera_redis_connections idle"] >= 1
    assert found["tessera_breaker_open redis"] == found["tessera_breaker_open decoder"] == 0


@pytest.mark.anyio
async def test_a_breaker_that_is_open_shows(settings: Settings, tmp_path: Path) -> None:
    nowhere = {"redis_url": SecretStr(f"unix://{tmp_path}/none.sock"), "redis_cooldown_ms": 60_000}
    async with running(settings.model_copy(update=nowhere)) as app:
        for _ in range(4):
            await app.client.get("/recommend/ann?n=2")
        await asyncio.sleep(0.7)
        assert 'tessera_breaker_open{part="redis"} 1.0' in (await app.client.get("/metrics")).text


def test_buckets_are_fine_enough() -> None:
    bounds = np.array(latency_buckets())
    assert bounds[0] <= 1e-4
    assert bounds[-1] >= 30
    assert (bounds[1:] / bounds[:-1]).max() < 1.251
