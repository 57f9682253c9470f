"""Events are recorded whole, in order, bounded, and never lost silently."""

import asyncio
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from app import embedded_redis
from app.embedded_redis import socket_path
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.redis_gate import redis_gate

pytestmark = pytest.mark.anyio


def event(user: str, item: int, **more: object) -> dict[str, object]:
    return {"user_id": user, "item_id": f"item-{item}", "type": "view", **more}


async def test_events_become_the_history(api: RunningApp, cache: Cache) -> None:
    sent = [event("ann", 1), event("bob", 2), event("ann", 3, recommendation_id="abc")]
    answer = await api.client.post("/events", json=sent)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 3, "duplicates": 0, "rejected": []})
    assert cache.history("ann") == ["item-1", "item-3"]
    assert cache.is_dirty("ann")
    shown = await api.client.get("/users/ann/history")
    assert shown.json() == {"user_id": "ann", "items": ["item-1", "item-3"]}


async def test_events_of_one_request_are_ordered_by_time(api: RunningApp, cache: Cache) -> None:
    times = [(1, "2026-01-01T12:00:00Z"), (2, 1_700_000_000), (3, None), (4, "2026-01-01T12:30:00+02:00")]
    await api.client.post("/events", json=[event("ann", item, timestamp=when) for item, when in times])
    assert cache.history("ann") == ["item-2", "item-4", "item-1", "item-3"]


async def test_unknown_items_are_reported_by_row(api: RunningApp, cache: Cache) -> None:
    sent = [event("ann", 1), event("ann", 999), event("ann", 2)]
    answer = await api.client.post("/events", json=sent)
    rejected = [{"row": 1, "item_id": "item-999", "reason": "unknown_item"}]
    assert answer.json() == {"accepted": 2, "duplicates": 0, "rejected": rejected}
    assert cache.history("ann") == ["item-1", "item-2"]


async def test_malformed_row_is_named_and_nothing_recorded(api: RunningApp, cache: Cache) -> None:
    answer = await api.client.post("/events", json=[event("ann", 1), {"user_id": "ann"}])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["location"] == ["body", 1, "item_id"]
    assert cache.history("ann") == []


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [event("", 1)],
        [event("a" * 300, 1)],
        [event("a\nb", 1)],
        [event("ann", 1, colour="red")],
        [event("ann", 1, type="no spaces please")],
        [event("ann", 1, timestamp="yesterday")],
        [event("ann", 1)] * 1001,
    ],
)
async def test_rows_outside_the_bounds_are_refused(api: RunningApp, rows: list[object]) -> None:
    assert (await api.client.post("/events", json=rows)).status_code == 422


async def test_history_is_bounded(settings: Settings, cache: Cache) -> None:
    async with running(settings.model_copy(update={"history_length": 5})) as app:
        await app.client.post("/events", json=[event("ann", item) for item in range(8)])
        await app.client.post("/events", json=[event("ann", 8)])
    assert cache.history("ann") == [f"item-{item}" for item in range(4, 9)]


async def test_every_key_has_a_lifetime_or_a_bound(api: RunningApp, cache: Cache) -> None:
    cache.redis.zadd(cache.keys.dirty, {"long gone": 1})
    await api.client.post("/events", json=[event("ann", 1)])
    assert cache.redis.ttl(cache.keys.history("ann")) > 0
    assert not cache.is_dirty("long gone")


async def test_event_holds_on_the_next_request(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    await api.client.post("/events", json=[event("ann", 9)])
    assert ids(await api.client.get("/recommend/ann?n=2")) == ["item-8", "item-7"]


async def test_outage_is_a_503_that_says_when_to_try_again(
    settings: Settings, stored: redis.Redis, cache: Cache
) -> None:
    async with running(settings) as app:
        embedded_redis.stop(settings.home)
        for method, path, body in (
            ("POST", "/events", [event("ann", 1)]),
            ("GET", "/users/ann/history", None),
            ("DELETE", "/users/ann", None),
        ):
            answer = await app.client.request(method, path, json=body)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["type"] == "urn:tessera:problem:storage-unavailable"


async def test_accepted_events_survive_a_restart_of_redis(settings: Settings, cache: Cache) -> None:
    async with running(settings) as app:
        await app.client.post("/events", json=[event("ann", 1)])
        embedded_redis.stop(settings.home)
        embedded_redis.ensure_running(settings.home)
        # The event loop has to hear that its connections are gone.
        await asyncio.sleep(0.1)
        assert (await app.client.get("/users/ann/history")).json()["items"] == ["item-1"]


async def test_forgotten_user_leaves_nothing(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8])
    await api.client.post("/events", json=[event("ann", 1)])
    assert (await api.client.delete("/users/ann")).json() == {"user_id": "ann", "existed": True}
    assert not list(cache.redis.scan_iter("*ann*"))
    assert not cache.is_dirty("ann")
    assert (await api.client.delete("/users/ann")).json() == {"user_id": "ann", "existed": False}
    assert (await api.client.get("/recommend/ann")).json()["source"] == "popular"


async def test_events_are_recorded_while_reads_are_too_late(settings: Settings, cache: Cache, tmp_path: Path) -> None:
    async with redis_gate(socket_path(settings.home), tmp_path / "gate.sock") as gate:
        changed = {
            "redis_url": SecretStr(f"unix://{tmp_path}/gate.sock"),
            "redis_timeout_ms": 100,
            "redis_write_timeout_ms": 5000,
            "redis_cooldown_ms": 60_000,
        }
        async with running(settings.model_copy(update=changed)) as app:
            gate.wait_s = 0.2
            for _ in range(5):
                assert (await app.client.get("/recommend/ann")).json()["degraded"]
            for number in range(3):
                assert (await app.client.post("/events", json=[event("ann", number)])).status_code == 200
            gate.wait_s = 0
    assert cache.history("ann") == ["item-0", "item-1", "item-2"]
