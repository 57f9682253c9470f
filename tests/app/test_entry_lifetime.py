"""Entries of the served version keep living; entries that nobody serves go away by themselves."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import redis

from app.embedded_redis import ensure_running
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.redis_connection import connect
from app.settings import Settings
from app.telemetry import Telemetry
from model_store.cache_keys import EntryLayout
from tests.app.conftest import Cache, running

pytestmark = pytest.mark.anyio

LAYOUT = EntryLayout("v", 700)
"""More buckets than one pipeline puts off."""
LIFETIME_S = 14 * 86400
NEARLY_OVER_S = 60


@pytest.fixture
async def processes(settings: Settings, stored: redis.Redis) -> AsyncIterator[list[RecommendationCache]]:
    """Several, as workers and machines have them."""
    url = ensure_running(settings.home)
    caches = [
        RecommendationCache(connect(url, connect_timeout_s=0.1, timeout_s=1, max_connections=4), settings, Telemetry())
        for _ in range(3)
    ]
    yield caches
    for cache in caches:
        await cache.aclose()


def fill(cache: Cache, layout: EntryLayout) -> None:
    for number in range(layout.buckets):
        cache.redis.hset(cache.keys.bucket(layout, number), "ann", b"entry")
        cache.redis.expire(cache.keys.bucket(layout, number), NEARLY_OVER_S)


def lifetimes(cache: Cache, layout: EntryLayout) -> list[int]:
    return [cache.redis.ttl(cache.keys.bucket(layout, number)) for number in range(layout.buckets)]


def expiries_set(cache: Cache) -> int:
    """How often any client has sent EXPIRE, as Redis counts it."""
    return int(cache.redis.info("commandstats").get("cmdstat_expire", {"calls": 0})["calls"])


async def test_buckets_of_a_served_version_get_their_whole_lifetime_again(
    processes: list[RecommendationCache], cache: Cache
) -> None:
    other = replace(LAYOUT, cache_version="other")
    for layout in (LAYOUT, other):
        fill(cache, layout)
    await processes[0].put_off_expiry(LAYOUT)
    assert min(lifetimes(cache, LAYOUT)) > LIFETIME_S - NEARLY_OVER_S
    assert max(lifetimes(cache, other)) <= NEARLY_OVER_S


async def test_one_process_does_it_and_rarely(processes: list[RecommendationCache], cache: Cache) -> None:
    fill(cache, LAYOUT)
    before = expiries_set(cache)
    await asyncio.gather(*(process.put_off_expiry(LAYOUT) for process in processes))
    for process in processes:
        await process.put_off_expiry(LAYOUT)
    assert expiries_set(cache) - before == LAYOUT.buckets
    assert LIFETIME_S / 9 < cache.redis.ttl(cache.keys.kept("v")) <= LIFETIME_S / 8

    cache.redis.delete(cache.keys.kept("v"))
    await processes[1].put_off_expiry(LAYOUT)
    assert expiries_set(cache) - before == 2 * LAYOUT.buckets, "the next period has a turn of its own"


async def test_failure_leaves_it_to_the_next_call(processes: list[RecommendationCache], cache: Cache) -> None:
    fill(cache, LAYOUT)
    cache.redis.execute_command("ACL", "SETUSER", "default", "-expire")
    with pytest.raises(CacheUnavailable):
        await processes[0].put_off_expiry(LAYOUT)
    assert max(lifetimes(cache, LAYOUT)) <= NEARLY_OVER_S
    cache.redis.execute_command("ACL", "SETUSER", "default", "+expire")
    await processes[1].put_off_expiry(LAYOUT)
    assert min(lifetimes(cache, LAYOUT)) > LIFETIME_S - NEARLY_OVER_S


async def test_missing_buckets_stay_missing(processes: list[RecommendationCache], cache: Cache) -> None:
    await processes[0].put_off_expiry(LAYOUT)
    assert not list(cache.redis.scan_iter("*:entries:*"))


async def test_application_keeps_the_version_it_serves(settings: Settings, cache: Cache) -> None:
    served, other = cache.layout(), cache.layout("other")
    for layout in (served, other):
        fill(cache, layout)
    async with running(settings):
        async with asyncio.timeout(5):
            while min(lifetimes(cache, served)) <= NEARLY_OVER_S:
                await asyncio.sleep(0.02)
    assert max(lifetimes(cache, other)) <= NEARLY_OVER_S
