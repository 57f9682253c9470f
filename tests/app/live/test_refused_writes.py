"""A Redis that refuses writes and goes on to answer reads, as one whose disk is full does (MISCONF)."""

import time
from collections.abc import Iterator

import pytest

from tests.app.conftest import Cache, RunningApp

pytestmark = pytest.mark.anyio


@pytest.fixture
def refusing(api: RunningApp, cache: Cache) -> Iterator[None]:
    """Refused for lack of a replica: the same class of answer, and no disk need be filled for it."""
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    cache.put_history("new", [20])
    cache.redis.config_set("min-replicas-to-write", 1)
    yield
    cache.redis.config_set("min-replicas-to-write", 0)


@pytest.mark.usefixtures("refusing")
async def test_reads_are_as_before_and_writes_are_refused_until_it_takes_them_again(
    api: RunningApp, cache: Cache
) -> None:
    events = [{"user_id": "ann", "item_id": "item-5"}]
    for _ in range(5):
        refused = await api.client.post("/events", json=events)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await api.client.delete("/users/ann")).status_code == 503
        body = (await api.client.get("/recommend/ann?n=2")).json()
        assert (body["source"], body["degraded"]) == ("cache", False), "one refused write is no outage"
        body = (await api.client.get("/recommend/new?n=2")).json()
        assert (body["source"], body["degraded"]) == ("live", False)
        await api.services.recommender.settle()
    counted = (await api.client.get("/metrics")).text
    assert 'tessera_cache_unavailable_total{kind="NOREPLICAS",operation="events"} 5.0' in counted
    assert 'tessera_events_total{attributed="",outcome="refused"} 5.0' in counted
    cache.redis.config_set("min-replicas-to-write", 0)
    assert (await api.client.post("/events", json=events)).json()["accepted"] == 1
    assert cache.history("ann") == ["item-20", "item-5"]


@pytest.mark.usefixtures("refusing")
async def test_no_answer_waits_for_a_refused_write(api: RunningApp) -> None:
    begin = time.monotonic()
    for _ in range(20):
        assert (await api.client.get("/recommend/new?n=2")).status_code == 200
    assert time.monotonic() - begin < 5
