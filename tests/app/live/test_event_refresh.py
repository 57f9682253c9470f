"""A burst of events is one refresh, a moment after the last of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from app.settings import Settings
from model_store.cache_entries import CacheEntry
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.live.conftest import names
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio

QUIET_S = 0.3


@pytest.fixture
def settings(settings: Settings, decoder: PlainDecoder) -> Settings:
    changed = {"decoder_address": decoder.address, "beam_width": 20, "event_refresh_debounce_ms": int(QUIET_S * 1000)}
    return settings.model_copy(update=changed)


@pytest.fixture
async def api(settings: Settings, cache: Cache) -> AsyncIterator[RunningApp]:
    async with running(settings) as app:
        yield app


async def click(api: RunningApp, user: str, item: int) -> None:
    answer = await api.client.post("/events", json=[{"user_id": user, "item_id": f"item-{item}"}])
    assert answer.status_code == 200


async def outcomes(api: RunningApp) -> dict[str, float]:
    """How many background refreshes ended how."""
    start = "tessera_background_refreshes_total{outcome="
    lines = (await api.client.get("/metrics")).text.splitlines()
    found = [line.removeprefix(start).split("} ") for line in lines if line.startswith(start)]
    return {outcome.strip('"'): float(count) for outcome, count in found}


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_burst_of_events_is_one_refresh_after_it(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_entry("ann", [1, 2, 4])
    for item in (30, 31, 32, 20):
        await click(api, "ann", item)
    last = time.monotonic()
    assert not decoder.asked
    await until(lambda: not cache.is_dirty("ann"))
    assert time.monotonic() - last > QUIET_S * 0.9
    assert [asked.history for asked in decoder.asked] == [[30, 31, 32, 20]]
    answer = await api.client.get("/recommend/ann?n=3")
    assert answer.json()["source"] == "cache"
    assert ids(answer) == names([19, 21, 18]), "decoded from the latest event"
    await asyncio.sleep(2 * QUIET_S)
    assert await outcomes(api) == {"done": 1}


async def test_each_user_of_a_request_is_refreshed(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    sent = [{"user_id": user, "item_id": "item-5"} for user in ("ann", "bob", "ann")]
    await api.client.post("/events", json=sent)
    await until(lambda: not cache.is_dirty("ann") and not cache.is_dirty("bob"))
    assert len(decoder.asked) == 2
    ann, bob = (CacheEntry.unpack(cache.packed(user) or b"") for user in ("ann", "bob"))
    assert (ann.codes_KL == bob.codes_KL).all()


async def test_steady_clicker_is_refreshed_too(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    begin = time.monotonic()
    while not decoder.asked:
        assert time.monotonic() - begin < 5 * QUIET_S + 2
        await click(api, "ann", 5)
        await asyncio.sleep(QUIET_S / 10)


async def test_user_decoded_meanwhile_is_left_alone(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    await click(api, "ann", 5)
    assert (await api.client.get("/recommend/ann?n=3")).json()["source"] == "live"
    deadline = time.monotonic() + 5
    while not (ended := await outcomes(api)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert ended == {"not_needed": 1}
    assert len(decoder.asked) == 1


async def test_event_during_a_refresh_brings_another(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    decoder.delay_s = 0.2
    await click(api, "ann", 5)
    await until(lambda: len(decoder.asked) == 1)
    await click(api, "ann", 6)
    await until(lambda: len(decoder.asked) == 2)
    await until(lambda: not cache.is_dirty("ann"))
    assert decoder.asked[1].history == [5, 6]


async def test_as_many_users_wait_as_the_queue_takes(settings: Settings, cache: Cache, decoder: PlainDecoder) -> None:
    async with running(settings.model_copy(update={"refresh_queue": 2})) as app:
        for user in range(8):
            await click(app, f"u{user}", 5)
        assert await outcomes(app) == {"dropped": 6}
        await until(lambda: len(decoder.asked) == 2)
    assert cache.is_dirty("u7"), "the next stale answer asks again"


async def test_nothing_is_queued_without_a_decoder(settings: Settings, cache: Cache) -> None:
    alone = {"decoder_address": None, "event_refresh_debounce_ms": 0, "refresh_queue": 1}
    async with running(settings.model_copy(update=alone)) as app:
        for user in ("ann", "bob"):
            await click(app, user, 5)
        await asyncio.sleep(0.1)
        assert await outcomes(app) == {}


async def test_rejected_and_refused_events_ask_for_nothing(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    await api.client.post("/events", json=[{"user_id": "ann", "item_id": "gone"}])
    cache.redis.config_set("maxmemory", 1)
    refused = await api.client.post("/events", json=[{"user_id": "ann", "item_id": "item-5"}])
    assert refused.status_code == 503
    await asyncio.sleep(2 * QUIET_S)
    assert await outcomes(api) == {}
