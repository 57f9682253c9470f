"""What a query changes: who answers, what is asked of the decoder, and what happens when it cannot be asked."""

import asyncio
import logging

import pytest

from app.decode_wire import unpack_mask
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.live.conftest import ITEMS, names
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio

IN_STOCK = [item for item in range(ITEMS) if item not in OUT_OF_STOCK]


async def test_query_is_decoded_although_a_fresh_entry_is_there(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 2, 4, 5])
    cache.put_history("ann", [40])
    answer = await api.client.get("/recommend/ann", params={"q": "  close to 40 ", "n": 3})
    assert ids(answer) == ["item-39", "item-41", "item-38"], "what was seen is left out"
    body = answer.json()
    assert (body["source"], body["degraded"], body["not_applied"]) == ("live", False, {})
    assert {item["reason"] for item in body["items"]} == {"live"}
    assert (decoder.asked[0].query, decoder.asked[0].history) == ("close to 40", [40])


async def test_answer_to_a_query_is_never_the_users_entry(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [20])
    cache.put_history("bob", [20])
    cache.put_entry("bob", [1, 2, 4])
    before = cache.packed("bob")
    for user in ("ann", "bob"):
        assert (await api.client.get(f"/recommend/{user}?q=40&n=3")).json()["source"] == "live"
    await api.services.recommender.settle()
    assert cache.packed("bob") == before
    async with asyncio.timeout(5):
        while (answer := await api.client.get("/recommend/ann?n=3")).json()["source"] != "cache":
            await asyncio.sleep(0.01)
    assert ids(answer) == ["item-19", "item-21", "item-18"], "decoded behind, without the query"


async def test_session_and_nobody_may_ask(api: RunningApp, decoder: PlainDecoder) -> None:
    session = await api.client.post("/recommend", json={"history": ["item-1", "gone"], "q": "40", "n": 2})
    assert (session.json()["source"], ids(session)) == ("live", ["item-40", "item-39"])
    for body in ({"q": "40", "n": 2}, {"history": [], "q": "40", "n": 2}):
        nobody = await api.client.post("/recommend", json=body)
        assert (nobody.json()["source"], nobody.json()["user_id"]) == ("live", None)
        assert ids(nobody) == ["item-40", "item-39"]
    stranger = await api.client.get("/recommend/stranger?q=40&n=2")
    assert (stranger.json()["source"], ids(stranger)) == ("live", ["item-40", "item-39"])
    assert [asked.history for asked in decoder.asked] == [[1], [], [], []]


async def test_filters_exclusions_and_pages_hold(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    catalog = cache.bundle.catalog
    cache.put_history("ann", [40])
    toys = [i for i in IN_STOCK if "toys" in catalog.categories[i] and i not in (40, 1)]
    asked = "q=40&category=toys&exclude=item-1"
    whole = (await api.client.get(f"/recommend/ann?{asked}&n=6")).json()["items"]
    assert [item["item_id"] for item in whole] == names(decoder.best([], toys, "40")[:6])
    pages = [(await api.client.get(f"/recommend/ann?{asked}&n=2&offset={offset}")).json() for offset in (0, 2, 4)]
    assert [item for page in pages for item in page["items"]] == whole
    mask = decoder.asked[0].eligible
    assert mask is not None
    assert set(unpack_mask(mask, ITEMS).nonzero()[0]) <= {i for i in IN_STOCK if "toys" in catalog.categories[i]}
    everything = await api.client.get("/recommend/ann?q=40&n=100")
    assert sorted(ids(everything)) == sorted(names([i for i in IN_STOCK if i != 40]))
    assert everything.json()["shortfall_reason"] == "eligible_items_exhausted"


async def test_batch_asks_for_each_user(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [1, 2])
    cache.put_history("ann", [40])
    body = {"user_ids": ["ann", "stranger"], "q": "40", "n": 2}
    answers = (await api.client.post("/recommend/batch", json=body)).json()["answers"]
    assert [[item["item_id"] for item in answer["items"]] for answer in answers] == [
        ["item-39", "item-41"],
        ["item-40", "item-39"],
    ]


async def test_equal_queries_share_a_decode_and_others_do_not(api: RunningApp, decoder: PlainDecoder) -> None:
    decoder.delay_s = 0.05
    asked = ["q=40", "q=40", "q=41", "q=40"]
    answers = await asyncio.gather(*(api.client.get(f"/recommend/ann?{query}&n=1") for query in asked))
    assert [ids(answer) for answer in answers] == [["item-40"], ["item-40"], ["item-41"], ["item-40"]]
    assert len(decoder.asked) == 2


@pytest.mark.parametrize(
    ("entry", "history", "source"),
    [([1, 2, 4], [40], "cache"), ([], [40], "neighbors"), ([], [], "popular")],
)
async def test_without_the_decoder_the_ladder_answers_and_says_what_it_left_out(
    api: RunningApp, cache: Cache, decoder: PlainDecoder, entry: list[int], history: list[int], source: str
) -> None:
    if entry:
        cache.put_entry("ann", entry)
    if history:
        cache.put_history("ann", history)
    decoder.status = 429
    body = (await api.client.get("/recommend/ann?q=40&n=3&explain=true")).json()
    assert (body["source"], body["degraded"], len(body["items"])) == (source, True, 3)
    assert body["not_applied"] == {"q": "queue_full"}
    assert body["explain"]["unavailable"] == {"decoder": "queue_full"}
    assert len(decoder.asked) == 1, "asked once"
    metrics = (await api.client.get("/metrics")).text
    assert 'tessera_options_not_applied_total{option="q",reason="queue_full"} 1.0' in metrics


async def test_deployment_without_a_decoder_misses_it_for_a_query(settings: Settings, cache: Cache) -> None:
    cache.put_entry("ann", [1, 2, 4])
    async with running(settings) as app:
        body = (await app.client.get("/recommend/ann?q=40&n=2")).json()
        assert (body["source"], body["degraded"], body["not_applied"]) == ("cache", True, {"q": "no_decoder"})
        body = (await app.client.get("/recommend/ann?n=2")).json()
        assert (body["degraded"], body["not_applied"]) == (False, {})


async def test_strict_query_gives_what_there_is(api: RunningApp, decoder: PlainDecoder) -> None:
    body = (await api.client.post("/recommend", json={"q": "40", "n": 100, "strict": True})).json()
    assert len(body["items"]) == len(IN_STOCK)
    assert body["shortfall_reason"] == "personal_items_exhausted"
    decoder.status = 500
    body = (await api.client.post("/recommend", json={"q": "41", "n": 10, "strict": True})).json()
    assert (body["items"], body["shortfall_reason"]) == ([], "no_history")
    assert body["not_applied"] == {"q": "failed"}


async def test_query_is_neither_logged_nor_counted_by_its_words(
    settings: Settings, cache: Cache, decoder: PlainDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    # The test's own client logs the address it asks.
    for name in ("httpx", "httpcore"):
        caplog.set_level(logging.WARNING, logger=name)
    caplog.set_level(logging.DEBUG)
    with_access_log = settings.model_copy(update={"decoder_address": decoder.address, "access_log": True})
    async with running(with_access_log) as app:
        for status in (200, 500):
            decoder.status = status
            answer = await app.client.get("/recommend/ann", params={"q": f"swordfish-{status} 40"})
            assert answer.status_code == 200
            assert "swordfish" not in answer.text
        refused = await app.client.get("/recommend/ann", params={"q": "swordfish " * 60})
        assert refused.status_code == 422
        assert "swordfish" not in refused.text + (await app.client.get("/metrics")).text
    logged_records = str([record.__dict__ for record in caplog.records])
    assert "/recommend/{user_id}" in logged_records
    assert "swordfish" not in logged_records
