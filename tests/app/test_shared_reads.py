"""Reads that share a round trip do not share their failures, unless it is Redis that fails."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from app import shared_reads
from app.embedded_redis import ensure_running
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.redis_connection import connect
from app.settings import Settings
from app.telemetry import Telemetry
from model_store.cache_keys import EntryLayout
from tests.app.conftest import Cache
from tests.app.test_recommendation_cache import add, frozen
from tests.redis_servers import server, wait_until

pytestmark = pytest.mark.anyio

LAYOUT = EntryLayout("v", 4)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
async def reads(settings: Settings, stored: redis.Redis, telemetry: Telemetry) -> AsyncIterator[RecommendationCache]:
    client = connect(ensure_running(settings.home), connect_timeout_s=0.1, timeout_s=0.1, max_connections=4)
    cache = RecommendationCache(client, settings, telemetry)
    yield cache
    await cache.aclose()


def unavailable(telemetry: Telemetry) -> dict[str, float]:
    """Reads that failed, by kind."""
    metrics = text_string_to_metric_families(telemetry.exposition().decode())
    metric = next(metric for metric in metrics if metric.name == "tessera_cache_unavailable")
    return {
        sample.labels["kind"]: sample.value
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["operation"] == "read"
    }


async def test_many_reads_take_several_trips_and_each_gets_its_own(reads: RecommendationCache, cache: Cache) -> None:
    users = [f"user-{number}" for number in range(3 * shared_reads.MAX_READS_OF_TRIP + 5)]
    for number, user in enumerate(users):
        cache.redis.rpush(cache.keys.history(user), f"item-{number}")
    states = await asyncio.gather(*(reads.read(LAYOUT, user) for user in users))
    assert [state.history for state in states] == [(f"item-{number}",) for number in range(len(users))]


async def test_a_command_that_redis_refuses_fails_its_own_read(reads: RecommendationCache, cache: Cache) -> None:
    cache.redis.set(cache.keys.history("bad"), "not a list")
    cache.put_history("ann", [1])
    found = await asyncio.gather(*(reads.read(LAYOUT, user) for user in ("ann", "bad", "ann")), return_exceptions=True)
    assert [getattr(one, "history", None) for one in found] == [("item-1",), None, ("item-1",)]
    assert isinstance(found[1], CacheUnavailable)


async def test_a_caller_who_leaves_takes_nobody_along(reads: RecommendationCache, cache: Cache) -> None:
    cache.put_history("ann", [1])
    tasks = [asyncio.create_task(reads.read(LAYOUT, "ann")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[1], asyncio.CancelledError)
    assert [found[0].history, found[2].history] == [("item-1",)] * 2


async def test_an_outage_reaches_all_who_share_a_trip(
    reads: RecommendationCache, settings: Settings, telemetry: Telemetry
) -> None:
    await reads.read(LAYOUT, "ann")
    with frozen(settings.home):
        found = await asyncio.gather(*(reads.read(LAYOUT, "ann") for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in found} == {CacheUnavailable}
    assert unavailable(telemetry) == {"TimeoutError": 20}
    # One late round trip is one failure, however many waited for it.
    assert (await reads.read(LAYOUT, "ann")).history == ()


async def test_a_lost_connection_is_opened_anew(reads: RecommendationCache, cache: Cache) -> None:
    cache.put_history("ann", [1])
    for _ in range(10):
        assert (await reads.read(LAYOUT, "ann")).history == ("item-1",)
        cache.redis.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.02)
    assert (await reads.read(LAYOUT, "ann")).history == ("item-1",)
    assert sum(client["name"] == "tessera" for client in cache.redis.client_list()) <= 4


async def test_waiting_reads_are_bounded(
    reads: RecommendationCache, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_reads, "MAX_WAITING", 5)
    found = await asyncio.gather(*(reads.read(LAYOUT, "ann") for _ in range(8)), return_exceptions=True)
    assert [type(one) for one in found[5:]] == [CacheUnavailable] * 3
    assert unavailable(telemetry) == {"full": 3}
    await asyncio.gather(*(reads.read(LAYOUT, "ann") for _ in range(5)))


async def assert_reads(url: str, settings: Settings) -> None:
    client = connect(url, connect_timeout_s=1, timeout_s=1, max_connections=4)
    cache = RecommendationCache(client, settings.model_copy(update={"redis_timeout_ms": 2000}), Telemetry())
    users = [f"user-{number}" for number in range(40)]
    await add(cache, [(user, f"item-of-{user}") for user in users])
    states = await asyncio.gather(*(cache.read(LAYOUT, user) for user in users))
    assert [state.history for state in states] == [(f"item-of-{user}",) for user in users]
    await cache.aclose()


async def test_password_and_database(tmp_path: Path, settings: Settings) -> None:
    with server(tmp_path / "r") as port:
        redis.Redis(port=port).config_set("requirepass", "swordfish")
        await assert_reads(f"redis://:swordfish@127.0.0.1:{port}/3", settings)


async def test_cluster(tmp_path: Path, settings: Settings) -> None:
    with server(tmp_path / "c", "--cluster-enabled", "yes") as port:
        redis.Redis(port=port).execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: redis.Redis(port=port).cluster("info")["cluster_state"] == "ok")
        await assert_reads(f"redis+cluster://127.0.0.1:{port}", settings)


async def test_sentinel(tmp_path: Path, settings: Settings) -> None:
    configuration = tmp_path / "sentinel.conf"
    with server(tmp_path / "m") as master:
        configuration.write_text(f"sentinel monitor shop 127.0.0.1 {master} 1\n")
        with server(tmp_path / "s", str(configuration), "--sentinel") as sentinel:
            await assert_reads(f"redis+sentinel://127.0.0.1:{sentinel}/shop/0", settings)
