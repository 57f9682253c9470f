"""Online quality: shown items and those that got an event, exact for a story that can be counted by hand."""

import time
from typing import Any

import pytest
import redis

from app import embedded_redis
from app.attribution import MAX_ANSWERS, pack_answer, unpack_answer
from app.recommendation_ids import BATCH_DIGITS, RecommendationIds
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, running

pytestmark = pytest.mark.anyio


async def recommended(app: RunningApp, path: str) -> tuple[str, list[str]]:
    body = (await app.client.get(path)).json()
    return body["recommendation_id"], [item["item_id"] for item in body["items"]]


async def clicked(app: RunningApp, recommendation_id: str, *items: str, **more: Any) -> None:
    events = [{"user_id": "ann", "item_id": item, "recommendation_id": recommendation_id, **more} for item in items]
    assert (await app.client.post("/events", json=events)).json()["accepted"] == len(items)


async def counted(app: RunningApp) -> dict[str, tuple[int, int, float]]:
    await app.services.attribution.flush()
    days = (await app.client.get("/quality?days=2")).json()["days"]
    assert {day["model_version"] for day in days} <= {"light-1"}
    return {day["source"]: (day["shown"], day["hits"], day["share"]) for day in days}


async def test_a_story_is_counted_exactly(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7, 6])
    first, items = await recommended(api, "/recommend/ann?n=4")
    second, popular = await recommended(api, "/recommend/nobody?n=5")
    assert await counted(api) == {"cache": (4, 0, 0), "popular": (5, 0, 0)}
    await clicked(api, first, items[0], items[2])
    await clicked(api, first, items[0])
    await clicked(api, first, "item-40")
    await clicked(api, second, popular[0], id="once")
    await clicked(api, second, popular[0], id="once")
    await clicked(api, second, popular[1], type="read")
    await clicked(api, "f" * 24, popular[0])
    await clicked(api, "no id of ours", popular[0])
    assert await counted(api) == {"cache": (4, 2, 0.5), "popular": (5, 1, 0.2)}
    await clicked(api, first, items[2], items[3])
    assert await counted(api) == {"cache": (4, 3, 0.75), "popular": (5, 1, 0.2)}
    text = (await api.client.get("/metrics")).text
    labels = 'model_version="light-1",source="cache"'
    assert f"tessera_recommended_items_total{{{labels}}} 4.0" in text
    assert f"tessera_recommended_items_with_event_total{{{labels}}} 3.0" in text


async def test_every_kind_of_request_is_counted(api: RunningApp) -> None:
    await api.client.post("/recommend", json={"history": ["item-1"], "n": 3})
    await api.client.post("/recommend/batch", json={"user_ids": ["a", "b"], "n": 2})
    assert await counted(api) == {"neighbors": (3, 0, 0), "popular": (4, 0, 0)}


async def test_an_event_at_another_worker_counts_once(settings: Settings, cache: Cache) -> None:
    async with running(settings) as one, running(settings) as other:
        recommendation_id, items = await recommended(one, "/recommend/nobody?n=5")
        await clicked(other, recommendation_id, items[0])
        await other.services.attribution.flush(settle_s=2.5)
        assert await counted(one) == {"popular": (5, 0, 0)}, "the answer is written, the event is young"
        await clicked(one, recommendation_id, items[0])
        await other.services.attribution.flush()
        assert await counted(one) == {"popular": (5, 1, 0.2)}


async def test_counting_happens_by_itself(settings: Settings, cache: Cache) -> None:
    async with running(settings) as app:
        recommendation_id, items = await recommended(app, "/recommend/nobody?n=5")
        await clicked(app, recommendation_id, items[0])
    async with running(settings) as app:
        assert await counted(app) == {"popular": (5, 1, 0.2)}, "done at the end at the latest"


async def test_a_share_of_the_answers(settings: Settings, cache: Cache) -> None:
    async with running(settings.model_copy(update={"attribution_share": 0.3})) as app:
        for _ in range(200):
            await app.client.get("/recommend/nobody?n=1")
        shown, _, _ = (await counted(app))["popular"]
        assert 30 < shown < 100
    async with running(settings.model_copy(update={"attribution_share": 0.0, "namespace": "none"})) as app:
        await app.client.get("/recommend/nobody?n=1")
        assert await counted(app) == {}


async def test_every_key_expires_and_none_says_whose_it_is(settings: Settings, cache: Cache) -> None:
    async with running(settings.model_copy(update={"attribution_window_s": 900})) as app:
        recommendation_id, items = await recommended(app, "/recommend/a-private-id?n=5")
        await clicked(app, recommendation_id, items[0])
        await app.services.attribution.flush()
    batch = recommendation_id[:BATCH_DIGITS]
    assert 0 < cache.redis.ttl(cache.keys.answers(batch)) <= 900
    assert 0 < cache.redis.ttl(cache.keys.hits(batch)) <= 900
    assert 0 < cache.redis.ttl(cache.keys.quality(int(time.time() // 86_400))) <= 40 * 86_400
    (packed,) = cache.redis.hvals(cache.keys.answers(batch))
    assert len(packed) == 2 + len("popular") + len("light-1") + 5 * 4


async def test_outages_and_floods_drop_counts_and_nothing_else(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings) as app:
        embedded_redis.stop(settings.home)
        recommendation_id, items = await recommended(app, "/recommend/nobody?n=5")
        app.services.attribution.happened(recommendation_id, items[0])
        await app.services.attribution.flush()
        assert (await app.client.get("/quality")).status_code == 503
        for _ in range(MAX_ANSWERS + 10):
            app.services.attribution.answered("0" * 24, "popular", "light-1", items)
        await app.services.attribution.flush()
        text = (await app.client.get("/metrics")).text
        assert 'tessera_attribution_dropped_total{reason="redis",what="answer"} 501.0' in text
        assert 'tessera_attribution_dropped_total{reason="redis",what="event"} 1.0' in text
        assert 'tessera_attribution_dropped_total{reason="full",what="answer"} 10.0' in text
        assert "tessera_recommended_items_total{" not in text, "nothing is shown of which no event could count"


@pytest.mark.parametrize("query", ["days=0", "days=41", "day=1"])
async def test_days_out_of_bounds(api: RunningApp, query: str) -> None:
    assert (await api.client.get(f"/quality?{query}")).status_code == 422


def test_answers_are_read_as_they_were_packed() -> None:
    source, version, digests = unpack_answer(pack_answer("cache", "v-1", ["a", "b"])) or ("", "", frozenset())
    assert (source, version, len(digests)) == ("cache", "v-1", 2)
    assert unpack_answer(b"") is None
    assert unpack_answer(b"\x05\x05abc") is None


def test_ids_are_unique_and_share_a_batch() -> None:
    ids = RecommendationIds()
    made = [ids.next() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {len(one) for one in made} == {24}
    assert 4 <= len({one[:BATCH_DIGITS] for one in made}) <= 8
