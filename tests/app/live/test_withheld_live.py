"""What is withheld stays out of live decodes and of the entries they leave behind."""

import asyncio

import pytest

from app.settings import Settings
from model_store.cache_entries import CacheEntry
from tests.app.conftest import Cache, RunningApp, ids
from tests.app.live.conftest import names

pytestmark = pytest.mark.anyio


def entry_items(cache: Cache, user: str) -> list[str]:
    packed = cache.packed(user)
    assert packed is not None
    return names(cache.bundle.item_codes.items_of(CacheEntry.unpack(packed).codes_KL).tolist())


async def test_live_answers_and_their_entries_leave_out_what_is_withheld(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [20])
    first = await api.client.get("/recommend/ann?n=5")
    assert first.json()["source"] == "live"
    await api.services.recommender.settle()
    cache.redis.delete(cache.keys.bucket_of(cache.layout(), "ann"))
    await api.client.patch("/users/ann/blocks", json={"block": ids(first)[:2]})
    again = await api.client.get("/recommend/ann?n=5")
    assert again.json()["source"] == "live"
    assert ids(again)[:3] == ids(first)[2:]
    assert not set(ids(first)[:2]) & set(ids(again))
    await api.services.recommender.settle()
    assert not set(ids(first)[:2]) & set(entry_items(cache, "ann"))


async def test_an_entry_that_was_read_to_its_end_is_followed_by_other_items(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [20])
    seen: list[str] = []
    for _ in range(8):
        answer = await api.client.get("/recommend/ann?n=5&write_back_type=read&strict=true")
        assert set(answer.json()["items"][0]["reason"].split()) <= {"cache", "live"}
        seen += ids(answer)
        await api.services.write_back.flush()
        await api.services.recommender.settle()
    assert len(seen) == len(set(seen)) == 40
    assert cache.history("ann") == ["item-20"]


async def test_a_background_refresh_leaves_out_what_is_withheld(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    before = entry_items(cache, "ann")
    await api.client.patch("/users/ann/blocks", json={"block": names([1, 2, 3, 9])})
    assert (await api.client.get("/recommend/ann?n=1")).json()["source"] == "stale_cache"
    for _ in range(200):
        if entry_items(cache, "ann") != before:
            break
        await asyncio.sleep(0.02)
    assert not set(names([1, 2, 3, 9, 20])) & set(entry_items(cache, "ann"))
    assert len(entry_items(cache, "ann")) == Settings(beam_width=20).beam_width


async def test_sessions_can_do_all_that_a_user_can(api: RunningApp) -> None:
    """A posted history: pages, filters, strictness and an explanation, as for a user."""
    history = {"history": names([20, 21])}
    whole = await api.client.post("/recommend", json={**history, "n": 10, "explain": True})
    assert whole.json()["source"] == "live"
    assert whole.json()["explain"]["history_items"] == 2
    page = await api.client.post("/recommend", json={**history, "n": 3, "offset": 4})
    assert ids(page) == ids(whole)[4:7]
    filtered = await api.client.post(
        "/recommend", json={**history, "n": 10, "category": ["toys"], "exclude": ids(whole)[:1], "price_min": 5}
    )
    categories = dict(
        zip(api.services.active.served.catalog.item_ids, api.services.active.served.catalog.categories, strict=True)
    )
    assert ids(filtered)
    assert all("toys" in categories[item] for item in ids(filtered))
    assert ids(whole)[0] not in ids(filtered)
    strict = await api.client.post("/recommend", json={"history": [], "strict": True})
    assert (ids(strict), strict.json()["shortfall_reason"]) == ([], "no_history")
