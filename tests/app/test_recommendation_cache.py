"""An outage costs one timeout, not one per request; a race loses no event."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from app.embedded_redis import ensure_running, socket_path
from app.history_commands import add_events
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.redis_connection import connect
from app.settings import Settings
from app.telemetry import Telemetry
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import EntryLayout
from tests.app.conftest import Cache
from tests.app.redis_gate import redis_gate

pytestmark = pytest.mark.anyio

LAYOUT = EntryLayout("v", 4)


@pytest.fixture
async def recommendation_cache(settings: Settings, stored: redis.Redis) -> AsyncIterator[RecommendationCache]:
    client = connect(ensure_running(settings.home), connect_timeout_s=0.1, timeout_s=0.1, max_connections=4)
    changed = {"redis_timeout_ms": 100, "redis_cooldown_ms": 300}
    cache = RecommendationCache(client, settings.model_copy(update=changed), Telemetry())
    yield cache
    await cache.aclose()


@contextmanager
def frozen(home: Path) -> Iterator[None]:
    """A Redis that takes connections and answers nothing."""
    pid = int((home / "redis" / "redis.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def failing_read(cache: RecommendationCache) -> float:
    begin = time.perf_counter()
    with pytest.raises(CacheUnavailable):
        await cache.read(LAYOUT, "ann")
    return time.perf_counter() - begin


async def add(cache: RecommendationCache, events: list[tuple[str, str]]) -> None:
    """Record (user id, item id) events."""
    await cache.execute("events", lambda pipeline: add_events(pipeline, cache.keys, Settings(), events))


def entry_of(cache: Cache) -> CacheEntry:
    codes = cache.bundle.item_codes.codes_NL[:3]
    return CacheEntry(codes, cache.bundle.popularity[:3].astype("float16"), 7, int(time.time()), "vllm")


async def test_silent_redis_costs_a_timeout_then_nothing(
    recommendation_cache: RecommendationCache, settings: Settings, cache: Cache
) -> None:
    cache.put_history("ann", [1])
    await recommendation_cache.read(LAYOUT, "ann")
    with frozen(settings.home):
        first = [await failing_read(recommendation_cache) for _ in range(3)]
        assert all(0.05 < seconds < 0.5 for seconds in first)
        assert max([await failing_read(recommendation_cache) for _ in range(50)]) < 0.05, "cooling down"
        await asyncio.sleep(0.35)
        assert await failing_read(recommendation_cache) > 0.05, "one tries again"
        assert await failing_read(recommendation_cache) < 0.05, "and the others do not"
    await asyncio.sleep(0.35)
    assert (await recommendation_cache.read(LAYOUT, "ann")).history == ("item-1",)


async def test_reads_that_are_late_do_not_refuse_writes_that_are_not(
    settings: Settings, cache: Cache, tmp_path: Path
) -> None:
    async with redis_gate(socket_path(settings.home), tmp_path / "gate.sock") as gate:
        client = connect(f"unix://{tmp_path}/gate.sock", connect_timeout_s=5, timeout_s=5, max_connections=4)
        bounds = {"redis_timeout_ms": 50, "redis_write_timeout_ms": 5000, "redis_cooldown_ms": 60_000}
        slow = RecommendationCache(client, settings.model_copy(update=bounds), Telemetry())
        gate.wait_s = 0.2
        for _ in range(3):
            await failing_read(slow)
        assert slow.breaker_open
        with pytest.raises(CacheUnavailable, match="cooling down"):
            await slow.history("ann")
        await add(slow, [("ann", "item-1")])
        async with slow.attempt("events") as direct:
            await direct.rpush(cache.keys.history("ann"), "item-2")
        assert cache.history("ann") == ["item-1", "item-2"]
        with pytest.raises(CacheUnavailable):
            await slow.read(LAYOUT, "ann")
        await slow.aclose()


async def test_many_requests_of_an_outage_wait_together(
    recommendation_cache: RecommendationCache, settings: Settings
) -> None:
    with frozen(settings.home):
        begin = time.perf_counter()
        await asyncio.gather(*(failing_read(recommendation_cache) for _ in range(40)))
        assert time.perf_counter() - begin < 1


async def test_connection_is_not_shared_with_late_answers(
    recommendation_cache: RecommendationCache, settings: Settings, cache: Cache
) -> None:
    for user in ("ann", "bob"):
        cache.put_history(user, [1] if user == "ann" else [2])
    with frozen(settings.home):
        await failing_read(recommendation_cache)
    for _ in range(10):
        assert (await recommendation_cache.read(LAYOUT, "bob")).history == ("item-2",)


async def test_refused_command_is_no_outage(
    recommendation_cache: RecommendationCache, settings: Settings, cache: Cache
) -> None:
    cache.redis.set(cache.keys.history("ann"), "not a list")
    for _ in range(5):
        with pytest.raises(CacheUnavailable, match="WRONGTYPE"):
            await recommendation_cache.read(LAYOUT, "ann")
    assert (await recommendation_cache.read(LAYOUT, "bob")).history == ()


async def test_full_redis_still_reads(recommendation_cache: RecommendationCache, cache: Cache) -> None:
    cache.put_history("ann", [1])
    cache.redis.config_set("maxmemory", 1)
    with pytest.raises(CacheUnavailable, match="OutOfMemory"):
        await add(recommendation_cache, [("ann", "item-2")])
    assert (await recommendation_cache.read(LAYOUT, "ann")).history == ("item-1",)


async def test_write_back_takes_the_mark_unless_there_is_news(
    recommendation_cache: RecommendationCache, cache: Cache
) -> None:
    entry = entry_of(cache)
    await add(recommendation_cache, [("ann", "item-1")])
    await recommendation_cache.store(LAYOUT, "ann", entry, ("item-1",))
    assert not cache.is_dirty("ann")
    await add(recommendation_cache, [("ann", "item-2")])
    await recommendation_cache.store(LAYOUT, "ann", entry, ("item-1",))
    assert cache.is_dirty("ann")


async def test_write_back_can_be_found_and_expires(recommendation_cache: RecommendationCache, cache: Cache) -> None:
    await add(recommendation_cache, [("ann", "item-1")])
    await recommendation_cache.store(LAYOUT, "ann", entry_of(cache), ("item-1",))
    assert cache.redis.hgetall(cache.keys.caches) == {b"v": b"4"}
    assert 0 < cache.redis.ttl(cache.keys.bucket_of(LAYOUT, "ann")) <= 14 * 86400
    assert (await recommendation_cache.read(LAYOUT, "ann")).entry is not None


async def test_write_back_that_redis_refuses_leaves_the_mark(
    recommendation_cache: RecommendationCache, cache: Cache
) -> None:
    await add(recommendation_cache, [("ann", "item-1")])
    cache.redis.zadd(cache.keys.demand, {"ann": 3})
    cache.redis.config_set("maxmemory", 1)
    with pytest.raises(CacheUnavailable, match="OutOfMemory"):
        await recommendation_cache.store(LAYOUT, "ann", entry_of(cache), ("item-1",))
    assert cache.is_dirty("ann"), "a full Redis would still remove it"
    assert cache.demand() == {"ann": 3}


async def test_forgetting_reaches_versions_that_are_no_longer_in_the_store(
    recommendation_cache: RecommendationCache, cache: Cache
) -> None:
    gone = [EntryLayout("first", 4), EntryLayout("second", 64)]
    await add(recommendation_cache, [("ann", "item-1"), ("bob", "item-1")])
    for layout in gone:
        for user in ("ann", "bob"):
            await recommendation_cache.store(layout, user, entry_of(cache), ("item-1",))
    cache.redis.delete(cache.keys.history("ann"))
    assert await recommendation_cache.forget("ann", LAYOUT)
    for layout in gone:
        assert (await recommendation_cache.read(layout, "ann")).entry is None
        assert (await recommendation_cache.read(layout, "bob")).entry is not None
    assert not await recommendation_cache.forget("ann", LAYOUT)


async def test_messages_hold_no_user(recommendation_cache: RecommendationCache, cache: Cache) -> None:
    cache.redis.set(cache.keys.history("a-private-id"), "not a list")
    with pytest.raises(CacheUnavailable) as failed:
        await recommendation_cache.read(LAYOUT, "a-private-id")
    assert "a-private-id" not in str(failed.value)
