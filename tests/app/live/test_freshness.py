"""What a refresh is told about answers: how many were fresh, and who was left wanting."""

import asyncio
import time

import pytest

from app import embedded_redis
from app.freshness import MAX_WANTING
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, running
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio


async def answers(api: RunningApp, *paths: str) -> list[str]:
    """Ask; the sources of the answers, whose counts are in Redis then."""
    sources = [(await api.client.get(path)).json()["source"] for path in paths]
    await api.services.recommender.settle()
    await api.services.freshness.flush()
    return sources


async def metric(api: RunningApp, line: str) -> float:
    text = (await api.client.get("/metrics")).text
    return sum(float(found.split()[-1]) for found in text.splitlines() if found.startswith(line))


async def test_fresh_entry_leaves_nothing_to_want(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    assert await answers(api, *["/recommend/ann?n=2"] * 3) == ["cache"] * 3
    assert cache.served() == (3, 3)
    assert cache.demand() == {}
    assert await metric(api, 'tessera_personal_answers_total{fresh="yes"}') == 3


async def test_live_decode_that_is_kept_is_fresh_and_ends_the_demand(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [20])
    cache.redis.zadd(cache.keys.demand, {"ann": 7, "bob": 2})
    assert await answers(api, "/recommend/ann?n=2") == ["live"]
    assert cache.served() == (1, 1)
    assert cache.demand() == {"bob": 2}


async def test_stale_answers_are_demand_while_nobody_decodes(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    decoder.status = 429
    cache.put_entry("ann", [9, 8, 7], age_s=2 * 86400)
    cache.put_entry("bob", [9, 8, 7])
    for user in ("ann", "bob"):
        cache.put_history(user, [20])
    cache.mark_dirty("bob")
    paths = ["/recommend/ann?n=2", "/recommend/bob?n=2", "/recommend/bob?n=2"]
    assert await answers(api, *paths) == ["stale_cache"] * 3
    assert cache.served() == (0, 3)
    assert cache.demand() == {"ann": 1, "bob": 2}
    assert await metric(api, 'tessera_personal_answers_total{fresh="no"}') == 3


async def test_demand_that_a_refresh_was_faster_than_is_not_recorded(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    assert (await api.client.get("/recommend/ann?n=2")).json()["source"] == "stale_cache"
    deadline = time.monotonic() + 5
    while await metric(api, 'tessera_background_refreshes_total{outcome="done"}') == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await api.services.freshness.flush()
    assert cache.served() == (0, 1)
    assert cache.demand() == {}


async def test_missing_entry_is_demand_where_it_cannot_be_decoded(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    decoder.status = 429
    cache.put_history("ann", [20])
    assert await answers(api, "/recommend/ann?n=2") == ["neighbors"]
    assert cache.served() == (0, 1)
    assert cache.demand() == {"ann": 1}


async def test_missing_entry_is_demand_without_a_decoder(settings: Settings, cache: Cache) -> None:
    cache.put_history("ann", [20])
    async with running(settings) as app:
        assert await answers(app, "/recommend/ann?n=2") == ["neighbors"]
    assert cache.served() == (0, 1)
    assert cache.demand() == {"ann": 1}


async def test_entry_that_is_used_up_is_no_demand(api: RunningApp, cache: Cache) -> None:
    toys = [i for i, categories in enumerate(cache.bundle.catalog.categories) if "toys" in categories]
    cache.put_entry("ann", toys[:2])
    cache.put_history("ann", [20])
    assert await answers(api, "/recommend/ann?n=6&category=toys") == ["cache"]
    assert cache.served() == (1, 1)
    assert cache.demand() == {}


async def test_old_list_in_a_new_order_is_not_fresh(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    decoder.delay_s = 0.05
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    assert await answers(api, "/recommend/ann?n=2&within=cache") == ["live"]
    assert cache.served() == (0, 1)


async def test_answers_no_list_was_made_for_do_not_count(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("only-an-entry", [9, 8, 7])
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    await api.client.post("/recommend", json={"history": ["item-1"], "n": 2})
    await answers(api, "/recommend/nobody", "/recommend/only-an-entry?n=2", "/recommend/ann?n=2&q=near%205")
    assert cache.served() == (0, 0)
    assert cache.demand() == {}


async def test_each_user_of_a_batch_counts(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    decoder.status = 429
    cache.put_entry("ann", [9, 8])
    for user in ("ann", "bob"):
        cache.put_history(user, [20])
    await api.client.post("/recommend/batch", json={"user_ids": ["ann", "bob", "nobody"], "n": 2})
    await api.services.freshness.flush()
    assert cache.served() == (1, 2)
    assert cache.demand() == {"bob": 1}


async def test_counts_reach_redis_by_themselves_and_at_the_end(settings: Settings, cache: Cache) -> None:
    cache.put_history("ann", [20])
    async with running(settings) as app:
        await app.client.get("/recommend/ann")
        deadline = time.monotonic() + 5
        while cache.served() == (0, 0):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await app.client.get("/recommend/ann")
    assert cache.served() == (0, 2)
    assert cache.demand() == {"ann": 2}


async def test_counts_expire(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    decoder.status = 429
    cache.put_history("ann", [20])
    await answers(api, "/recommend/ann?n=2")
    (minute,) = cache.redis.scan_iter("*:served:*")
    assert 3600 < cache.redis.ttl(minute) < 86400
    assert 3600 < cache.redis.ttl(cache.keys.demand) <= 86400


async def test_memory_and_time_of_a_flush_are_bounded(api: RunningApp, cache: Cache) -> None:
    for user in range(MAX_WANTING + 5):
        api.services.freshness.answered(f"u{user}", fresh=False, wanting=True)
    api.services.freshness.answered("u0", fresh=False, wanting=True)
    await api.services.freshness.flush()
    assert cache.served() == (0, MAX_WANTING + 6)
    assert len(cache.demand()) == MAX_WANTING
    assert cache.demand()["u0"] == 2
    assert await metric(api, 'tessera_freshness_dropped_total{reason="full"}') == 5


async def test_demand_keeps_the_most_wanted_million(api: RunningApp, cache: Cache) -> None:
    fill = "for i = 1, 1000000 do redis.call('ZADD', KEYS[1], 2, i) end"
    cache.redis.eval(fill, 1, cache.keys.demand)
    for _ in range(3):
        api.services.freshness.answered("ann", fresh=False, wanting=True)
    await api.services.freshness.flush()
    assert cache.redis.zcard(cache.keys.demand) == 1_000_000
    assert cache.redis.zscore(cache.keys.demand, "ann") == 3


async def test_outage_drops_the_counts_and_says_so(settings: Settings, cache: Cache) -> None:
    cache.put_history("ann", [20])
    async with running(settings) as app:
        await app.client.get("/recommend/ann")
        embedded_redis.stop(settings.home)
        await app.services.freshness.flush()
        assert await metric(app, 'tessera_freshness_dropped_total{reason="redis"}') == 1
        embedded_redis.ensure_running(settings.home)
        await asyncio.sleep(0.1)
        await app.services.freshness.flush()
    assert cache.served() == (0, 0)


async def test_forgotten_user_is_not_named_by_a_later_flush(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    decoder.status = 429
    cache.put_history("ann", [20])
    await api.client.get("/recommend/ann?n=2")
    await api.client.delete("/users/ann")
    await api.services.freshness.flush()
    assert cache.demand() == {}
