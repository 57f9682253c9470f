"""A Redis that takes no more writes costs no answer."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.app.conftest import Cache, RunningApp, ids
from tests.app.live.conftest import names
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio


@pytest.fixture
def full(api: RunningApp, cache: Cache) -> Iterator[None]:
    """Users with each kind of state, and no memory for anything more."""
    cache.put_entry("fresh", [9, 8, 7])
    cache.put_entry("stale", [9, 8, 7])
    for user in ("fresh", "stale", "new"):
        cache.put_history(user, [20])
    cache.mark_dirty("stale")
    cache.redis.config_set("maxmemory", 1)
    yield
    cache.redis.config_set("maxmemory", 0)


async def metrics(api: RunningApp) -> dict[str, float]:
    lines = (await api.client.get("/metrics")).text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.mark.usefixtures("full")
async def test_every_route_answers_but_that_which_must_write(api: RunningApp) -> None:
    for method, path, body in (
        ("GET", "/recommend/fresh?n=2", None),
        ("GET", "/recommend/stale?n=2", None),
        ("GET", "/recommend/new?n=2", None),
        ("GET", "/recommend/nobody?n=2", None),
        ("GET", "/recommend/fresh?n=2&q=near%205", None),
        ("GET", "/recommend/stale?n=2&within=cache", None),
        ("POST", "/recommend", {"history": ["item-1"], "n": 2}),
        ("POST", "/recommend/batch", {"user_ids": ["fresh", "stale", "new"], "n": 2}),
        ("POST", "/rank", {"user_id": "fresh", "items": ["item-1", "item-2"]}),
        ("GET", "/similar/item-1", None),
        ("GET", "/popular", None),
        ("GET", "/users/fresh/history", None),
        ("GET", "/health/ready", None),
        ("GET", "/metrics", None),
    ):
        answer = await api.client.request(method, path, json=body)
        assert answer.status_code == 200, path
    refused = await api.client.post("/events", json=[{"user_id": "fresh", "item_id": "item-5"}])
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    forgotten = await api.client.delete("/users/fresh")
    assert (forgotten.status_code, forgotten.json()["existed"]) == (200, True)


@pytest.mark.usefixtures("full")
async def test_cached_answers_stay_what_they_were(api: RunningApp) -> None:
    for _ in range(5):
        body = (await api.client.get("/recommend/fresh?n=3")).json()
        assert (body["source"], body["degraded"]) == ("cache", False)


@pytest.mark.usefixtures("full")
async def test_live_decode_answers_and_its_loss_is_counted(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    for _ in range(2):
        answer = await api.client.get("/recommend/new?n=3")
        assert answer.json()["source"] == "live"
        assert ids(answer) == names([19, 21, 18])
        await api.services.recommender.settle()
    assert cache.packed("new") is None
    assert len(decoder.asked) == 2
    await api.services.freshness.flush()
    counted = await metrics(api)
    assert counted['tessera_cache_unavailable_total{kind="OutOfMemoryError",operation="store"}'] == 2
    assert counted['tessera_freshness_dropped_total{reason="redis"}'] == 2


@pytest.mark.usefixtures("full")
async def test_entry_that_missed_events_does_not_come_to_look_fresh(api: RunningApp, cache: Cache) -> None:
    assert (await api.client.get("/recommend/stale?n=3")).json()["source"] == "stale_cache"
    deadline = time.monotonic() + 5
    while 'tessera_background_refreshes_total{outcome="cache_unavailable"}' not in await metrics(api):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert cache.is_dirty("stale")
    cache.redis.config_set("maxmemory", 0)
    assert (await api.client.get("/recommend/stale?n=3")).json()["source"] == "stale_cache"
    while (await api.client.get("/recommend/stale?n=3")).json()["source"] != "cache":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
