"""Which part answers, and that every answer is whole."""

import time

import pytest
import redis
from pydantic import TypeAdapter

from app import embedded_redis
from app.recommendation import ExplainedRecommendation, Recommendation
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK

pytestmark = pytest.mark.anyio

IN_STOCK = [item for item in range(50) if item not in OUT_OF_STOCK]


async def test_fresh_entry_is_served_in_its_order(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7, 6, 5], age_s=60)
    answer = await api.client.get("/recommend/ann?n=3")
    assert ids(answer) == ["item-9", "item-8", "item-7"]
    body = answer.json()
    assert body["source"] == "cache"
    assert body["model_version"] == "light-1"
    assert [item["reason"] for item in body["items"]] == ["cache"] * 3
    assert [item["rank"] for item in body["items"]] == [1, 2, 3]
    assert [item["score"] for item in body["items"]] == [0.0, -0.5, -1.0]
    assert 59 < body["age_s"] < 65
    assert not body["degraded"]
    assert body["shortfall_reason"] is None
    assert body["not_applied"] == {}


async def test_answer_has_exactly_the_documented_fields(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    body = (await api.client.get("/recommend/ann")).json()
    TypeAdapter(Recommendation).validate_python(body)
    assert list(body) == [
        *("recommendation_id", "user_id", "items", "source", "model_version"),
        *("generated_at", "age_s", "degraded", "shortfall_reason", "not_applied"),
    ]
    assert list(body["items"][0]) == ["item_id", "rank", "score", "code", "reason"]


async def test_code_is_the_items_own(api: RunningApp, cache: Cache, bundle: Bundle) -> None:
    cache.put_entry("ann", [9])
    item = (await api.client.get("/recommend/ann?n=1")).json()["items"][0]
    u, v, x, y = bundle.item_codes.codes_NL[9].tolist()
    assert item["code"] == f"<u_{u}><v_{v}><x_{x}><y_{y}>"


async def test_unknown_user_gets_popular_items(api: RunningApp, bundle: Bundle) -> None:
    answer = await api.client.get("/recommend/nobody?n=5")
    best = sorted(IN_STOCK, key=lambda item: -bundle.popularity[item])[:5]
    assert ids(answer) == [f"item-{item}" for item in best]
    assert answer.json()["source"] == "popular"
    assert not answer.json()["degraded"]


async def test_user_without_entry_gets_neighbors_where_there_is_no_decoder(api: RunningApp, cache: Cache) -> None:
    cache.put_history("bob", [1, 2])
    body = (await api.client.get("/recommend/bob?n=5")).json()
    assert body["source"] == "neighbors"
    assert len(body["items"]) == 5
    assert not body["degraded"], "a deployment without a decoder does not miss it"


async def test_old_entry_is_stale(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7], age_s=2 * 86400)
    assert (await api.client.get("/recommend/ann?n=3")).json()["source"] == "stale_cache"


async def test_entry_older_than_the_latest_event_is_stale(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    await api.client.post("/events", json=[{"user_id": "ann", "item_id": "item-8"}])
    answer = await api.client.get("/recommend/ann?n=2")
    assert answer.json()["source"] == "stale_cache"
    assert ids(answer) == ["item-9", "item-7"], "what was just seen is left out"


async def test_short_entry_is_filled_up(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8])
    cache.put_history("ann", [20])
    body = (await api.client.get("/recommend/ann?n=6")).json()
    assert [item["reason"] for item in body["items"]] == ["cache"] * 2 + ["neighbors"] * 4
    assert body["source"] == "cache"
    assert len({item["item_id"] for item in body["items"]}) == 6


async def test_everything_eligible_can_be_had(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8])
    body = (await api.client.get("/recommend/ann?n=100")).json()
    assert sorted(item["item_id"] for item in body["items"]) == sorted(f"item-{item}" for item in IN_STOCK)
    assert body["shortfall_reason"] == "eligible_items_exhausted"


async def test_strict_leaves_a_list_short_and_says_why(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8])
    body = (await api.client.get("/recommend/ann?strict=true")).json()
    assert [item["item_id"] for item in body["items"]] == ["item-9", "item-8"]
    assert body["shortfall_reason"] == "personal_items_exhausted"
    body = (await api.client.get("/recommend/nobody?strict=true")).json()
    assert body["items"] == []
    assert body["shortfall_reason"] == "no_history"


async def test_pages_are_one_list(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20, 21])
    whole = (await api.client.get("/recommend/ann?n=12")).json()["items"]
    pages = [(await api.client.get(f"/recommend/ann?n=4&offset={offset}")).json() for offset in (0, 4, 8)]
    assert [item for page in pages for item in page["items"]] == whole
    assert [page["source"] for page in pages] == ["cache"] * 3


async def test_filters_hold_together(api: RunningApp, cache: Cache, bundle: Bundle) -> None:
    cache.put_entry("ann", list(range(50)))
    query = "category=audio&category=toys&price_min=20&price_max=80&exclude=item-1&n=100"
    answer = await api.client.get(f"/recommend/ann?{query}")
    catalog = bundle.catalog
    expected = {
        f"item-{i}"
        for i in IN_STOCK
        if {"audio", "toys"} <= set(catalog.categories[i]) and 20 <= catalog.prices[i] <= 80 and i != 1
    }
    assert set(ids(answer)) == expected
    assert expected


async def test_out_of_stock_items_come_back_on_request(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [OUT_OF_STOCK[0], 9])
    assert ids(await api.client.get("/recommend/ann?n=1")) == ["item-9"]
    assert ids(await api.client.get("/recommend/ann?n=1&in_stock=false")) == [f"item-{OUT_OF_STOCK[0]}"]


async def test_unknown_category_has_no_items(api: RunningApp) -> None:
    body = (await api.client.get("/recommend/ann?category=nothing")).json()
    assert body["items"] == []
    assert body["shortfall_reason"] == "eligible_items_exhausted"


async def test_session_is_described_by_its_history(api: RunningApp) -> None:
    answer = await api.client.post("/recommend", json={"history": ["item-1", "gone", "item-2"], "n": 4})
    assert answer.json()["user_id"] is None
    assert answer.json()["source"] == "neighbors"
    assert not {"item-1", "item-2"} & set(ids(answer))
    nothing_known = await api.client.post("/recommend", json={"history": [], "n": 4})
    assert nothing_known.json()["source"] == "popular"


async def test_body_asks_the_same_as_the_path(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7, 6])
    by_path = await api.client.get("/recommend/ann?n=2&exclude=item-8")
    by_body = await api.client.post("/recommend", json={"user_id": "ann", "n": 2, "exclude": ["item-8"]})
    assert ids(by_path) == ids(by_body) == ["item-9", "item-7"]


async def test_batch_answers_in_order(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8])
    cache.put_history("bob", [1])
    users = ["bob", "nobody", "ann", "ann"]
    answers = (await api.client.post("/recommend/batch", json={"user_ids": users, "n": 2})).json()["answers"]
    assert [answer["user_id"] for answer in answers] == users
    assert [answer["source"] for answer in answers] == ["neighbors", "popular", "cache", "cache"]


async def test_ids_may_hold_slashes_and_other_letters(api: RunningApp, cache: Cache) -> None:
    for user in ("team/ann", "Zoë 雪"):
        cache.put_entry(user, [9])
        answer = await api.client.get(f"/recommend/{user}", params={"n": 1})
        assert (answer.json()["user_id"], answer.json()["source"]) == (user, "cache")


async def test_explanation_tells_what_was_removed(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7, OUT_OF_STOCK[0]], age_s=30)
    cache.put_history("ann", [8])
    body = (await api.client.get("/recommend/ann?n=2&exclude=item-7&explain=true")).json()
    TypeAdapter(ExplainedRecommendation).validate_python(body)
    explain = body["explain"]
    assert explain["removed"] == {"seen": 1, "withheld": 0, "excluded": 1, "hidden": 0, "out_of_stock": 1}
    assert explain["entry_items"] == 4
    assert explain["given"] == {"cache": 1, "neighbors": 1}
    assert explain["history_items"] == 1
    assert set(explain["stages_ms"]) == {"redis", "cache", "neighbors"}


async def test_unreadable_entry_counts_as_missing(api: RunningApp, cache: Cache) -> None:
    cache.put_packed("ann", b"\xff\x00nonsense")
    body = (await api.client.get("/recommend/ann")).json()
    assert body["source"] == "popular"
    assert "tessera_cache_unreadable_total 1.0" in (await api.client.get("/metrics")).text


async def test_codes_of_items_that_are_gone_are_skipped(api: RunningApp, cache: Cache) -> None:
    packed = bytearray()
    cache.put_entry("ann", [9, 8])
    packed += cache.packed("ann")
    packed[12:16] = b"\xff\xff\xff\xff"
    cache.put_packed("ann", bytes(packed))
    assert ids(await api.client.get("/recommend/ann?n=1")) == ["item-8"]


async def test_redis_outage_degrades_and_heals(settings: Settings, stored: redis.Redis, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    async with running(settings) as app:
        assert (await app.client.get("/recommend/ann?n=2")).json()["source"] == "cache"
        embedded_redis.stop(settings.home)

        answer = (await app.client.get("/recommend/ann?n=2")).json()
        assert (answer["source"], answer["degraded"], len(answer["items"])) == ("popular", True, 2)
        session = await app.client.post("/recommend", json={"history": ["item-1"], "n": 2})
        assert session.json()["source"] == "neighbors"
        ready = await app.client.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"
        assert not ready.json()["dependencies"]["redis"]["ok"]
        assert (await app.client.get("/health/live")).status_code == 200

        embedded_redis.ensure_running(settings.home)
        deadline = time.monotonic() + 5
        while (await app.client.get("/recommend/ann?n=2")).json()["source"] != "cache":
            assert time.monotonic() < deadline, "answers do not come from the cache again"


async def test_server_starts_without_redis(settings: Settings) -> None:
    without = settings.model_copy(update={"redis_url": Settings(redis_url="redis://127.0.0.1:1/0").redis_url})
    async with running(without) as app:
        body = (await app.client.get("/recommend/ann?n=2")).json()
        assert (body["source"], body["degraded"]) == ("popular", True)
