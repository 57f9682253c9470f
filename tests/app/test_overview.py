"""What the dashboard reads, in one answer."""

import asyncio
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import redis
from pydantic import SecretStr

from app import cache_survey
from app.cache_survey import AGE_BOUNDS_S, CacheSurvey
from app.settings import Settings
from model_store.bundle import Bundle
from model_store.cache_keys import Keys
from tests.app.conftest import Cache, RunningApp, running
from tests.app.running_server import served
from tests.app.test_access import CONFIGURED, READER
from tests.app.test_problems import assert_problem
from tests.redis_servers import cluster

pytestmark = pytest.mark.anyio


async def test_coverage_and_ages(api: RunningApp, cache: Cache, stored: redis.Redis, bundle: Bundle) -> None:
    for user, age_s in (("ann", 60), ("bob", 2 * 3600), ("cid", 2 * 3600), ("dan", 30 * 86400)):
        cache.put_history(user, [1, 2])
        cache.put_entry(user, [5, 6], age_s=age_s)
    cache.put_history("eve", [3])
    found = asdict(await cache_survey.survey(api.services.cache, bundle.entry_layout))
    assert found["entries"] == 4
    assert found["histories"] == 5
    assert found["coverage"] == 0.8
    assert found["entries_estimated"] is found["histories_estimated"] is False
    assert [one["up_to_s"] for one in found["ages"]] == [*AGE_BOUNDS_S, None]
    assert [one["share"] for one in found["ages"]] == [0.25, 0.5, 0, 0, 0, 0.25]
    assert set(found["examples"]) == {"ann", "bob", "cid", "dan", "eve"}
    assert time.time() - found["measured_at"] < 10


async def test_coverage_of_many_users_is_estimated_from_a_sample(
    api: RunningApp, cache: Cache, stored: redis.Redis, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in range(600):
        stored.rpush(Keys().history(f"user-{user}"), "item-1")
        if user % 3:
            cache.put_entry(f"user-{user}", [5])
    monkeypatch.setattr(cache_survey, "_FEW_KEYS", 100)
    found = await cache_survey.survey(api.services.cache, bundle.entry_layout)
    assert found.histories_estimated
    assert found.entries == 400
    assert found.coverage == pytest.approx(2 / 3, abs=0.12)
    assert found.histories == pytest.approx(600, rel=0.25)
    assert found.sampled <= 500


async def test_one_look_is_enough_for_all_workers(
    api: RunningApp, stored: redis.Redis, bundle: Bundle, cache: Cache
) -> None:
    async with asyncio.timeout(5):
        # The application's own, at its start.
        while (before := stored.get(Keys().survey(bundle.cache_version))) is None:
            await asyncio.sleep(0.01)
    cache.put_history("ann", [1])
    await CacheSurvey(api.services.active, api.services.cache).look()
    assert stored.get(Keys().survey(bundle.cache_version)) == before
    assert 0 < stored.ttl(Keys().survey_turn(bundle.cache_version)) <= 60
    assert stored.ttl(Keys().survey(bundle.cache_version)) > 0
    shown = (await api.client.get("/overview")).json()["cache"]
    assert (shown["cache_version"], shown["histories"]) == ("light-1", 0)


async def test_empty_cache(api: RunningApp, stored: redis.Redis, bundle: Bundle) -> None:
    found = asdict(await cache_survey.survey(api.services.cache, bundle.entry_layout))
    assert (found["entries"], found["histories"], found["coverage"], found["ages"]) == (0, 0, None, [])


def test_traffic_of_all_workers_by_minute_and_source(settings: Settings, cache: Cache) -> None:
    cache.put_history("ann", [1])
    cache.put_entry("ann", [9, 8, 7])
    with served(settings, workers=2) as client:
        for _ in range(20):
            # New connections, so that both workers get some.
            assert httpx.get(f"{client.base_url}/recommend/ann?n=3").json()["source"] == "cache"
        for _ in range(5):
            client.get("/recommend/nobody")
        deadline = time.monotonic() + 10
        while True:
            traffic = client.get("/overview").json()["traffic"]
            totals = {source: sum(counts) for source, counts in traffic["answers"].items()}
            if totals == {"cache": 20, "popular": 5}:
                break
            assert time.monotonic() < deadline, totals
            time.sleep(0.1)
        assert len(traffic["minutes"]) == 60
        assert all(later - earlier == 60 for earlier, later in pairwise(traffic["minutes"]))
        assert sum(traffic["failed"]) == 0
        known = [share for share in traffic["fresh_share"] if share is not None]
        assert set(known) == {1.0}
        for name in ("p50_ms", "p95_ms", "p99_ms"):
            assert all(0 < value < 5000 for value in traffic["latency"][name] if value is not None)
        p50, p99 = traffic["latency"]["p50_ms"], traffic["latency"]["p99_ms"]
        assert any(value is not None for value in p50)
        assert all(low <= high for low, high in zip(p50, p99, strict=True) if low is not None)


async def test_traffic_in_redis_is_bounded(api: RunningApp, stored: redis.Redis) -> None:
    await api.client.get("/recommend/nobody")
    async with asyncio.timeout(5):
        while not (keys := list(stored.scan_iter(Keys().traffic(0)[:-1] + "*"))):
            await asyncio.sleep(0.05)
    assert all(0 < stored.ttl(key) <= 7200 for key in keys)


async def test_without_redis_the_overview_still_answers(api: RunningApp, stored: redis.Redis) -> None:
    stored.shutdown()
    answer = (await api.client.get("/overview")).raise_for_status().json()
    assert answer["status"] == "degraded"
    assert answer["dependencies"]["redis"]["ok"] is False
    assert answer["traffic"] is answer["cache"] is answer["redis"] is answer["refresh"] is None
    assert answer["served"] == "light-1"


async def test_overview_shows_memory_and_the_worker(api: RunningApp, stored: redis.Redis) -> None:
    answer = (await api.client.get("/overview")).json()
    assert answer["redis"]["used_bytes"] > 100_000
    assert answer["refresh"] == {"worker": False, "jobs": []}
    stored.set(Keys().refresh_worker, "x", ex=5)
    assert (await api.client.get("/overview")).json()["refresh"]["worker"] is True


async def test_overview_in_a_cluster(settings: Settings, tmp_path: Path, bundle: Bundle) -> None:
    with cluster(tmp_path / "cluster") as nodes:
        async with running(settings.model_copy(update={"redis_url": SecretStr(nodes.url)})) as app:
            await app.client.post("/events", json=[{"user_id": f"u{n}", "item_id": "item-1"} for n in range(50)])
            found = await cache_survey.survey(app.services.cache, bundle.entry_layout)
            assert found.histories == 50
            answer = (await app.client.get("/overview")).json()
            assert answer["redis"]["nodes"] == 3
            assert answer["traffic"] is not None
            assert answer["refresh"] == {"worker": False, "jobs": []}


async def test_items_are_looked_up(client: httpx.AsyncClient, bundle: Bundle) -> None:
    answer = (await client.post("/items/lookup", json={"ids": ["item-4", "item-9", "nothing", "item-4"]})).json()
    assert [item["item_id"] for item in answer["items"]] == ["item-4", "item-9"]
    assert answer["unknown"] == ["nothing"]
    unpriced, other = answer["items"]
    assert (unpriced["title"], unpriced["price"]) == ("Title 4", None)
    assert other["price"] == pytest.approx(float(bundle.catalog.prices[9]), abs=0.01)
    assert other["categories"] == list(bundle.catalog.categories[9])
    assert other["code"] == "".join(
        f"<{letter}_{code}>" for letter, code in zip("uvxy", bundle.item_codes.codes_NL[9], strict=True)
    )


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": ["i"] * 201}, {"ids": ["a"], "fields": ["title"]}])
async def test_lookups_out_of_bounds(client: httpx.AsyncClient, body: dict[str, object]) -> None:
    assert_problem(await client.post("/items/lookup", json=body), 422, "invalid-request")


async def test_readers_may_look_and_the_page_needs_no_key(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings.model_copy(update={"api_keys": CONFIGURED}), address=("203.0.113.7", 1)) as app:
        assert (await app.client.get("/overview")).status_code == 401
        headers = {"X-API-Key": READER}
        assert (await app.client.get("/overview", headers=headers)).status_code == 200
        assert (await app.client.post("/items/lookup", headers=headers, json={"ids": ["item-1"]})).status_code == 200
        page = await app.client.get("/")
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        again = await app.client.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
