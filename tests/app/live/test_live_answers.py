"""The ladder with a decoder: what it is asked, what is kept, and what happens without it."""

import asyncio
import time

import pytest

from app.decode_wire import unpack_mask
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.live.conftest import ITEMS, names
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio


async def test_missing_entry_is_decoded_and_kept(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_history("ann", [20, 30])
    cache.mark_dirty("ann")
    answer = await api.client.get("/recommend/ann?n=4")
    allowed = [item for item in range(ITEMS) if item not in (20, 30, *OUT_OF_STOCK)]
    assert ids(answer) == names(decoder.best([20, 30], allowed)[:4])
    assert answer.json()["source"] == "live"
    assert decoder.asked[0].n == 20, "a beam's worth, so that later requests find more"
    assert decoder.asked[0].excluded == [20, 30]

    await api.services.recommender.settle()
    assert not cache.is_dirty("ann")
    again = await api.client.get("/recommend/ann?n=4")
    assert again.json()["source"] == "cache"
    assert ids(again) == ids(answer)
    assert len(decoder.asked) == 1


async def test_concurrent_misses_share_one_decode(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_history("ann", [20])
    decoder.delay_s = 0.05
    answers = await asyncio.gather(*(api.client.get("/recommend/ann?n=4") for _ in range(8)))
    assert {answer.json()["source"] for answer in answers} == {"live"}
    assert len(decoder.asked) == 1


async def test_gap_is_filled_under_the_filter(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    toys = [i for i, categories in enumerate(cache.bundle.catalog.categories) if "toys" in categories]
    allowed = [item for item in toys if item not in (20, *OUT_OF_STOCK)]
    cache.put_entry("ann", [allowed[0], 20, allowed[1]])
    cache.put_history("ann", [20])
    answer = await api.client.get(f"/recommend/ann?n=5&category=toys&exclude=item-{allowed[2]}")
    assert ids(answer)[:2] == names(allowed[:2])
    assert ids(answer)[2:] == names(decoder.best([20], allowed[3:])[:3])
    assert [item["reason"] for item in answer.json()["items"]] == ["cache"] * 2 + ["live"] * 3
    asked = decoder.asked[0]
    assert asked.n == 3, "only the gap"
    assert asked.eligible is not None
    assert set(unpack_mask(asked.eligible, ITEMS).nonzero()[0]) == {i for i in toys if i not in OUT_OF_STOCK}
    assert {20, *allowed[:3]} <= set(asked.excluded)


async def test_filtered_decode_is_not_kept(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_entry("ann", [1])
    cache.put_history("ann", [20])
    before = cache.packed("ann")
    await api.client.get("/recommend/ann?n=3&category=toys")
    await api.services.recommender.settle()
    assert cache.packed("ann") == before


async def test_user_answered_under_a_filter_gets_an_entry_behind(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_history("ann", [20])
    assert (await api.client.get("/recommend/ann?n=2&category=toys")).json()["source"] == "live"
    deadline = time.monotonic() + 5
    while (await api.client.get("/recommend/ann?n=2")).json()["source"] != "cache":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_stale_entry_with_too_little_left_is_decoded_once(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 2])
    cache.put_history("ann", [1, 20])
    cache.mark_dirty("ann")
    answer = await api.client.get("/recommend/ann?n=3")
    assert [item["reason"] for item in answer.json()["items"]] == ["cache", "live", "live"]
    await api.services.recommender.settle()
    assert not cache.is_dirty("ann")
    await asyncio.sleep(0.05)
    assert len(decoder.asked) == 1


async def test_stale_entry_is_served_and_refreshed_behind(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_entry("ann", [1, 2, 4])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    answer = await api.client.get("/recommend/ann?n=3")
    assert answer.json()["source"] == "stale_cache"
    assert ids(answer) == ["item-1", "item-2", "item-4"]
    deadline = time.monotonic() + 5
    while cache.is_dirty("ann"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    answer = await api.client.get("/recommend/ann?n=3")
    assert answer.json()["source"] == "cache"
    assert ids(answer) == ["item-19", "item-21", "item-18"]


async def test_fresh_decodes_now_instead(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_entry("ann", [1, 2, 4])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    assert (await api.client.get("/recommend/ann?n=3&fresh=true")).json()["source"] == "live"


async def test_fresh_serves_the_stale_entry_when_the_decoder_cannot(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_entry("ann", [1, 2, 4])
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    decoder.status = 429
    body = (await api.client.get("/recommend/ann?n=3&fresh=true&explain=true")).json()
    assert (body["source"], body["degraded"]) == ("stale_cache", True)
    assert body["explain"]["unavailable"] == {"decoder": "queue_full"}


async def test_event_during_a_decode_leaves_the_user_dirty(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_history("ann", [20])
    cache.mark_dirty("ann")
    decoder.delay_s = 0.1
    answering = asyncio.create_task(api.client.get("/recommend/ann?n=3"))
    while not decoder.asked:
        await asyncio.sleep(0.005)
    await api.client.post("/events", json=[{"user_id": "ann", "item_id": "item-21"}])
    assert (await answering).json()["source"] == "live"
    await api.services.recommender.settle()
    assert cache.is_dirty("ann")
    assert (await api.client.get("/recommend/ann?n=3")).json()["source"] == "stale_cache"


async def test_user_forgotten_during_a_decode_stays_forgotten(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_history("ann", [20])
    decoder.delay_s = 0.1
    answering = asyncio.create_task(api.client.get("/recommend/ann?n=3"))
    while not decoder.asked:
        await asyncio.sleep(0.005)
    await api.client.delete("/users/ann")
    await answering
    await api.services.recommender.settle()
    assert not list(cache.redis.scan_iter("*ann*"))


@pytest.mark.parametrize(("status", "reason"), [(409, "version"), (429, "queue_full"), (500, "failed")])
async def test_decoder_that_cannot_leaves_it_to_neighbors(
    api: RunningApp, cache: Cache, decoder: PlainDecoder, status: int, reason: str
) -> None:
    cache.put_history("ann", [20])
    decoder.status = status
    body = (await api.client.get("/recommend/ann?n=3&explain=true")).json()
    assert (body["source"], body["degraded"], len(body["items"])) == ("neighbors", True, 3)
    assert body["explain"]["unavailable"] == {"decoder": reason}
    assert f'tessera_live_unavailable_total{{reason="{reason}"}} 1.0' in (await api.client.get("/metrics")).text


async def test_slow_decoder_costs_no_more_than_the_deadline(
    settings: Settings, cache: Cache, decoder: PlainDecoder
) -> None:
    decoder.delay_s = 1.0
    cache.put_history("ann", [20])
    hurried = settings.model_copy(update={"decoder_address": decoder.address, "live_deadline_ms": 50})
    async with running(hurried) as app:
        begin = time.perf_counter()
        body = (await app.client.get("/recommend/ann?n=3")).json()
        assert time.perf_counter() - begin < 0.4
        assert (body["source"], body["degraded"]) == ("neighbors", True)


async def test_decoder_is_not_asked_when_nothing_is_left(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_history("ann", list(range(ITEMS)))
    body = (await api.client.get("/recommend/ann")).json()
    assert body["items"] == []
    assert body["shortfall_reason"] == "eligible_items_exhausted"
    assert not decoder.asked


async def test_session_is_decoded_and_not_kept(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    body = (await api.client.post("/recommend", json={"history": ["item-20"], "n": 3})).json()
    assert body["source"] == "live"
    await api.services.recommender.settle()
    assert not list(cache.redis.scan_iter("*:entries:*"))


async def test_refresh_queue_is_bounded(settings: Settings, cache: Cache, decoder: PlainDecoder) -> None:
    decoder.delay_s = 0.2
    bounded = settings.model_copy(update={"decoder_address": decoder.address, "refresh_queue": 2})
    async with running(bounded) as app:
        for user in range(8):
            cache.put_entry(f"u{user}", [1, 2, 4])
            cache.put_history(f"u{user}", [20])
            cache.mark_dirty(f"u{user}")
            assert (await app.client.get(f"/recommend/u{user}?n=2")).json()["source"] == "stale_cache"
        text = (await app.client.get("/metrics")).text
    dropped = [line for line in text.splitlines() if 'background_refreshes_total{outcome="dropped"}' in line]
    assert float(dropped[0].split()[-1]) >= 5


async def test_readiness_names_the_decoder(api: RunningApp, decoder: PlainDecoder) -> None:
    body = (await api.client.get("/health/ready")).json()
    assert body["status"] == "ready"
    assert body["dependencies"]["decoder"] == {"ok": True, "configured": True, "detail": None}
