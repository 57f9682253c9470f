"""`within=cache`: the cached items in a new order, and never in place of the user's entry."""

import asyncio

import pytest
import redis

from app import embedded_redis
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio


async def test_entry_with_news_is_ranked_anew(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_entry("ann", [1, 30, 8, 20, 12, OUT_OF_STOCK[0]])
    cache.put_history("ann", [5, 20])
    cache.mark_dirty("ann")
    answer = await api.client.get("/recommend/ann?within=cache&n=4&exclude=item-8&explain=true")
    assert ids(answer) == ["item-12", "item-30", "item-1", answer.json()["items"][3]["item_id"]]
    body = answer.json()
    assert [item["reason"] for item in body["items"]] == ["reranked"] * 3 + ["live"]
    assert (body["source"], body["age_s"], body["degraded"], body["not_applied"]) == ("live", 0.0, False, {})
    assert body["explain"]["removed"] == {"seen": 1, "withheld": 0, "excluded": 1, "hidden": 0, "out_of_stock": 1}
    assert body["explain"]["given"] == {"reranked": 3, "live": 1}
    first = decoder.asked[0]
    assert (first.candidates, first.history) == ([1, 12, 30], [5, 20])
    scores = [decoder.score(item, [20]) for item in (12, 30, 1)]
    assert [item["score"] for item in body["items"][:3]] == pytest.approx(scores)


async def test_full_page_takes_one_decode_of_the_entry_alone(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 30, 8, 12, 40])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    pages = [await api.client.get(f"/recommend/ann?within=cache&n=2&offset={offset}") for offset in (0, 2)]
    assert [ids(page) for page in pages] == [["item-12", "item-30"], ["item-8", "item-1"]]
    assert all(asked.candidates == [1, 8, 12, 30, 40] for asked in decoder.asked if asked.candidates)


async def test_new_order_is_not_kept(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_entry("ann", [1, 30, 8])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    entry = cache.packed("ann")
    decoder.delay_s = 0.05
    assert (await api.client.get("/recommend/ann?within=cache&n=2")).json()["source"] == "live"
    await api.services.recommender.settle()
    assert cache.packed("ann") == entry
    assert cache.is_dirty("ann")
    async with asyncio.timeout(5):
        while cache.is_dirty("ann"):
            await asyncio.sleep(0.01)
    assert ids(await api.client.get("/recommend/ann?n=3")) == ["item-19", "item-21", "item-18"], "refreshed behind"


async def test_entry_without_news_is_in_that_order_already(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 30, 8])
    cache.put_history("ann", [20])
    answer = await api.client.get("/recommend/ann?within=cache&n=3")
    assert ids(answer) == ["item-1", "item-30", "item-8"]
    assert (answer.json()["source"], answer.json()["not_applied"]) == ("cache", {})
    assert not decoder.asked


async def test_query_ranks_the_cached_items_even_without_news_or_history(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 30, 8])
    answer = await api.client.get("/recommend/ann?within=cache&q=close+to+9&n=4")
    assert ids(answer) == ["item-8", "item-1", "item-30", "item-9"]
    assert [item["reason"] for item in answer.json()["items"]] == ["reranked"] * 3 + ["live"]
    assert [(asked.query, asked.candidates) for asked in decoder.asked] == [
        ("close to 9", [1, 8, 30]),
        ("close to 9", None),
    ]
    assert answer.json()["not_applied"] == {}


async def test_without_an_entry_the_catalogue_is_decoded_and_the_answer_says_so(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_history("ann", [20])
    answer = await api.client.get("/recommend/ann?within=cache&n=2")
    assert (answer.json()["source"], ids(answer)) == ("live", ["item-19", "item-21"])
    assert (answer.json()["not_applied"], answer.json()["degraded"]) == ({"within": "no_entry"}, False)
    session = await api.client.post("/recommend", json={"history": ["item-20"], "within": "cache", "n": 2})
    assert (session.json()["source"], session.json()["not_applied"]) == ("live", {"within": "no_entry"})
    asked = await api.client.get("/recommend/nobody?within=cache&q=40&n=1")
    assert (ids(asked), asked.json()["not_applied"]) == (["item-40"], {"within": "no_entry"})


async def test_old_entry_of_a_user_without_a_history_cannot_be_ranked(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [1, 30, 8], age_s=2 * 86400)
    body = (await api.client.get("/recommend/ann?within=cache&n=2")).json()
    assert (body["source"], body["not_applied"]) == ("stale_cache", {"within": "no_history"})


async def test_when_nothing_of_the_entry_is_left_the_usual_chain_answers(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 30])
    cache.put_history("ann", [1, 30])
    cache.mark_dirty("ann")
    answer = await api.client.get("/recommend/ann?within=cache&n=2")
    assert ids(answer) == ["item-31", "item-28"]
    assert answer.json()["not_applied"] == {}
    assert [asked.candidates for asked in decoder.asked] == [None]


@pytest.mark.parametrize(("status", "reason"), [(429, "queue_full"), (500, "failed")])
async def test_decoder_that_cannot_leaves_the_old_order(
    api: RunningApp, cache: Cache, decoder: PlainDecoder, status: int, reason: str
) -> None:
    cache.put_entry("ann", [1, 30, 8])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    decoder.status = status
    answer = await api.client.get("/recommend/ann?within=cache&n=5&q=40&explain=true")
    assert ids(answer)[:3] == ["item-1", "item-30", "item-8"]
    body = answer.json()
    assert (body["source"], body["degraded"], len(body["items"])) == ("stale_cache", True, 5)
    assert body["not_applied"] == {"within": reason, "q": reason}
    assert body["explain"]["unavailable"] == {"decoder": reason}
    assert len(decoder.asked) == 1, "what has just failed is not asked for the gap"


async def test_deployment_without_a_decoder_misses_it(settings: Settings, cache: Cache) -> None:
    cache.put_entry("ann", [1, 30, 8])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    async with running(settings) as app:
        body = (await app.client.get("/recommend/ann?within=cache&n=2")).json()
    assert (body["source"], body["degraded"]) == ("stale_cache", True)
    assert body["not_applied"] == {"within": "no_decoder"}


async def test_deadline_counts_for_both_decodes_of_a_request(
    settings: Settings, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 30, 8])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    decoder.delay_s = 0.2
    hurried = settings.model_copy(update={"decoder_address": decoder.address, "live_deadline_ms": 300})
    async with running(hurried) as app:
        body = (await app.client.get("/recommend/ann?within=cache&n=6&explain=true")).json()
    assert [item["reason"] for item in body["items"]] == ["reranked"] * 3 + ["neighbors"] * 3
    assert body["explain"]["unavailable"] == {"decoder": "deadline"}
    assert body["not_applied"] == {}
    assert decoder.asked[1].deadline_ms <= 100


async def test_without_redis_it_says_why(
    settings: Settings, stored: redis.Redis, cache: Cache, decoder: PlainDecoder
) -> None:
    with_decoder = settings.model_copy(update={"decoder_address": decoder.address})
    async with running(with_decoder) as app:
        embedded_redis.stop(settings.home)
        body = (await app.client.get("/recommend/ann?within=cache&n=2")).json()
        assert (body["source"], body["degraded"], body["not_applied"]) == ("popular", True, {"within": "redis"})
