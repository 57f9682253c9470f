"""`only`: an answer of the items that a caller allows, ranked exactly, and never in place of the user's entry."""

import asyncio

import pytest

from app.settings import Settings
from model_store.cache_entries import CacheEntry
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.live.conftest import names
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio

ALLOWED = [1, 44, 8, 20, 30, OUT_OF_STOCK[0]]
"""20 is what users of these tests have seen."""


def allowing(items: list[int], **more: object) -> dict[str, object]:
    return {"only": [*names(items), "unheard-of"], **more}


async def test_live_decode_ranks_the_allowed_items_and_nothing_else(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_history("ann", [20])
    answer = await api.client.get("/recommend/ann", params=allowing(ALLOWED, exclude="item-1"))
    assert ids(answer) == ["item-30", "item-8", "item-44"]
    body = answer.json()
    assert (body["source"], body["shortfall_reason"]) == ("live", "eligible_items_exhausted")
    assert (decoder.asked[0].candidates, decoder.asked[0].eligible) == ([8, 30, 44], None)


async def test_cached_items_come_first_and_the_rest_of_the_allowed_after_them(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [2, 44, 5, 8, 6])
    cache.put_history("ann", [20])
    body = (await api.client.get("/recommend/ann", params=allowing(ALLOWED, explain=True))).json()
    assert [item["item_id"] for item in body["items"]] == ["item-44", "item-8", "item-30", "item-1"]
    assert [item["reason"] for item in body["items"]] == ["cache"] * 2 + ["live"] * 2
    assert body["explain"]["removed"] == {
        "seen": 0,
        "withheld": 0,
        "excluded": 0,
        "hidden": 0,
        "out_of_stock": 0,
        "only": 3,
    }
    assert decoder.asked[0].candidates == [1, 30]


async def test_answer_under_it_is_never_the_users_entry(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_history("ann", [20])
    decoder.delay_s = 0.05
    # As many as an entry holds, so that nothing but the option tells the two apart.
    assert len(ids(await api.client.get("/recommend/ann", params=allowing(list(range(30)))))) == 10
    await api.services.recommender.settle()
    assert cache.packed("ann") is None
    async with asyncio.timeout(5):
        while (kept := cache.packed("ann")) is None:
            await asyncio.sleep(0.01)
    entry = cache.bundle.item_codes.items_of(CacheEntry.unpack(kept).codes_KL)
    assert max(entry) >= 30, "decoded behind, from the whole catalogue"


async def test_within_the_cache_only_the_allowed_cached_items_are_ranked_anew(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 2, 8, 3])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    answer = await api.client.get("/recommend/ann", params=allowing(ALLOWED, within="cache"))
    assert ids(answer) == ["item-8", "item-1", "item-30", "item-44"]
    assert [item["reason"] for item in answer.json()["items"]] == ["reranked"] * 2 + ["live"] * 2
    assert [asked.candidates for asked in decoder.asked[:2]] == [[1, 8], [30, 44]]


async def test_query_ranks_the_allowed_items(api: RunningApp, decoder: PlainDecoder) -> None:
    answer = await api.client.post("/recommend", json=allowing(ALLOWED, q="close to 40", n=2))
    assert ids(answer) == ["item-44", "item-30"]
    assert decoder.asked[0].candidates == [1, 8, 20, 30, 44]


async def test_without_a_decoder_neighbors_and_popularity_keep_to_it(settings: Settings, cache: Cache) -> None:
    cache.put_history("ann", [20])
    bundle = cache.bundle
    async with running(settings) as app:
        known = await app.client.get("/recommend/ann", params=allowing(ALLOWED))
        stranger = await app.client.get("/recommend/stranger", params=allowing(ALLOWED))
    nearness = bundle.item_embeddings @ bundle.item_embeddings[20]
    assert ids(known) == names(sorted([1, 44, 8, 30], key=lambda item: -nearness[item]))
    assert known.json()["source"] == "neighbors"
    assert ids(stranger) == names(sorted([1, 44, 8, 20, 30], key=lambda item: -bundle.popularity[item]))
    assert stranger.json()["source"] == "popular"


@pytest.mark.parametrize("only", [[], ["unheard-of"], ["item-20"]])
async def test_list_that_leaves_nothing_gives_an_empty_answer(
    api: RunningApp, cache: Cache, decoder: PlainDecoder, only: list[str]
) -> None:
    cache.put_entry("ann", [1, 2, 3])
    cache.put_history("ann", [20])
    body = (await api.client.post("/recommend", json={"user_id": "ann", "only": only})).json()
    assert (body["items"], body["shortfall_reason"]) == ([], "eligible_items_exhausted")
    assert not decoder.asked


async def test_each_user_of_a_batch_gets_the_allowed_items(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [20])
    asked = allowing(ALLOWED, user_ids=["ann", "stranger"], n=3)
    answers = (await api.client.post("/recommend/batch", json=asked)).json()["answers"]
    lists = [[item["item_id"] for item in answer["items"]] for answer in answers]
    assert lists[0] == ["item-30", "item-8", "item-1"]
    assert len(lists[1]) == 3
    assert set(lists[1]) <= set(names(ALLOWED))


async def test_thousand_ids_are_taken_and_one_more_is_not(api: RunningApp) -> None:
    for count, status in ((1000, 200), (1001, 422)):
        body = {"user_id": "ann", "only": names(list(range(count)))}
        assert (await api.client.post("/recommend", json=body)).status_code == status
        assert (await api.client.get("/recommend/ann", params={"only": body["only"]})).status_code == status
