"""What a user has read or blocked is shown no more, by any list, and comes back only when it should."""

import asyncio
import time

import pytest
import redis

from app import embedded_redis
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, ids, running

pytestmark = pytest.mark.anyio


def withheld(cache: Cache, user: str) -> dict[str, float]:
    return {
        item.decode(): from_s for item, from_s in cache.redis.zrange(cache.keys.withheld(user), 0, -1, withscores=True)
    }


async def test_blocked_items_are_on_no_list_of_the_user(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    answer = await api.client.patch("/users/ann/blocks", json={"block": ["item-8", "item-2"]})
    assert answer.json() == {"user_id": "ann", "items": ["item-2", "item-8"], "unknown": []}
    assert ids(await api.client.get("/recommend/ann?n=2")) == ["item-9", "item-7"]
    for path in (
        "/recommend/ann?n=100",
        "/popular?user_id=ann&n=100",
        "/latest?user_id=ann&n=100",
        "/similar/item-5?user_id=ann&n=100",
    ):
        shown = ids(await api.client.get(path))
        assert len(shown) > 40
        assert not {"item-2", "item-8", "item-20"} & set(shown), path
    batch = await api.client.post("/recommend/batch", json={"user_ids": ["ann", "bob"], "n": 100})
    ann, bob = ({item["item_id"] for item in one["items"]} for one in batch.json()["answers"])
    assert bob - ann == {"item-2", "item-8", "item-20"}


async def test_unblocked_items_come_back(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    await api.client.patch("/users/ann/blocks", json={"block": ["item-9", "item-8"]})
    changed = await api.client.patch("/users/ann/blocks", json={"unblock": ["item-9"]})
    assert changed.json()["items"] == ["item-8"]
    assert (await api.client.get("/users/ann/blocks")).json() == {"user_id": "ann", "items": ["item-8"], "unknown": []}
    assert ids(await api.client.get("/recommend/ann?n=2")) == ["item-9", "item-7"]


async def test_ids_with_slashes_and_unknown_items_can_be_blocked(api: RunningApp, cache: Cache) -> None:
    body = (await api.client.patch("/users/a/b/blocks/blocks", json={"block": ["x/y"]})).json()
    assert body == {"user_id": "a/b/blocks", "items": ["x/y"], "unknown": ["x/y"]}
    assert withheld(cache, "a/b/blocks") == {"x/y": 0}
    assert (await api.client.delete("/users/a/b/blocks")).json() == {"user_id": "a/b/blocks", "existed": True}
    assert not withheld(cache, "a/b/blocks")


async def test_blocks_are_bounded_and_one_too_many_changes_nothing(api: RunningApp, cache: Cache) -> None:
    await api.client.patch("/users/ann/blocks", json={"block": [f"x-{number}" for number in range(1000)]})
    answer = await api.client.patch("/users/ann/blocks", json={"block": ["item-1"]})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:tessera:problem:too-many-blocks")
    assert "item-1" not in withheld(cache, "ann")
    swapped = await api.client.patch("/users/ann/blocks", json={"block": ["item-1"], "unblock": ["x-0"]})
    assert len(swapped.json()["items"]) == 1000


async def test_read_events_are_withheld_from_their_time_and_leave_the_history_alone(
    api: RunningApp, cache: Cache
) -> None:
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    at = time.time()
    read = {"user_id": "ann", "type": "read"}
    events = [
        {**read, "item_id": "item-9", "timestamp": at - 50},
        {**read, "item_id": "item-8", "timestamp": at + 3600},
    ]
    assert (await api.client.post("/events", json=events)).json()["accepted"] == 2
    assert withheld(cache, "ann") == {"item-9": pytest.approx(at - 50), "item-8": pytest.approx(at + 3600)}
    assert cache.history("ann") == ["item-20"]
    answer = await api.client.get("/recommend/ann?n=2&explain=true")
    assert ids(answer) == ["item-8", "item-7"]
    assert answer.json()["source"] == "cache", "reads make no entry stale"
    assert answer.json()["explain"]["removed"]["withheld"] == 1


async def test_which_types_are_reads_is_a_setting(settings: Settings, cache: Cache) -> None:
    async with running(settings.model_copy(update={"read_types": "seen,skip"})) as app:
        sent = [
            {"user_id": "ann", "item_id": f"item-{item}", "type": kind}
            for item, kind in ((1, "read"), (2, "seen"), (3, "skip"))
        ]
        await app.client.post("/events", json=sent)
    assert cache.history("ann") == ["item-1"]
    assert set(withheld(cache, "ann")) == {"item-2", "item-3"}


async def test_the_earliest_read_holds_and_no_read_lifts_a_block(api: RunningApp, cache: Cache) -> None:
    await api.client.patch("/users/ann/blocks", json={"block": ["item-1"]})
    for at in (1000, 5000, 1):
        events = [{"user_id": "ann", "item_id": f"item-{item}", "type": "read", "timestamp": at} for item in (1, 2)]
        await api.client.post("/events", json=events)
    assert withheld(cache, "ann") == {"item-1": 0, "item-2": 1}
    await api.client.patch("/users/ann/blocks", json={"unblock": ["item-1", "item-2"]})
    assert withheld(cache, "ann") == {"item-2": 1}, "only a block is unblocked"


async def test_the_newest_reads_are_kept_and_every_block(settings: Settings, cache: Cache) -> None:
    async with running(settings.model_copy(update={"withheld_items": 3})) as app:
        await app.client.patch("/users/ann/blocks", json={"block": ["item-40", "item-41"]})
        for start in (0, 4):
            events = [
                {"user_id": "ann", "item_id": f"item-{item}", "type": "read", "timestamp": 1000 + item}
                for item in range(start, start + 4)
            ]
            await app.client.post("/events", json=events)
    assert set(withheld(cache, "ann")) == {"item-40", "item-41", "item-5", "item-6", "item-7"}
    assert cache.redis.ttl(cache.keys.withheld("ann")) > 0


async def test_events_put_off_the_expiry_of_blocks(api: RunningApp, cache: Cache) -> None:
    await api.client.patch("/users/ann/blocks", json={"block": ["item-1"]})
    for event in ({"item_id": "item-2"}, {"item_id": "item-3", "id": "one"}):
        cache.redis.expire(cache.keys.withheld("ann"), 60)
        await api.client.post("/events", json=[{"user_id": "ann", **event}])
        assert cache.redis.ttl(cache.keys.withheld("ann")) > 60


async def test_what_was_written_back_is_not_in_the_next_answer(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", list(range(30, 40)))
    seen: set[str] = set()
    for _ in range(5):
        shown = ids(await api.client.get("/recommend/ann?n=2&write_back_type=read"))
        assert len(shown) == 2
        assert not seen & set(shown)
        seen |= set(shown)
        await api.services.write_back.flush()
    assert seen == {f"item-{item}" for item in range(30, 40)}
    assert cache.history("ann") == []


async def test_write_back_happens_by_itself(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [30, 31, 32])
    body = {"user_ids": ["ann", "bob"], "n": 1, "write_back_type": "read"}
    await api.client.post("/recommend/batch", json=body)
    deadline = time.monotonic() + 5
    while not (withheld(cache, "ann") and withheld(cache, "bob")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert ids(await api.client.post("/recommend", json={"user_id": "ann", "n": 2})) == ["item-31", "item-32"]


async def test_delay_of_a_write_back_is_respected(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [30, 31, 32])
    at = time.time()
    await api.client.get("/recommend/ann?n=1&write_back_type=read&write_back_delay_s=3600")
    await api.services.write_back.flush()
    assert withheld(cache, "ann")["item-30"] == pytest.approx(at + 3600, abs=5)
    assert ids(await api.client.get("/recommend/ann?n=1")) == ["item-30"]
    await api.client.get("/recommend/ann?n=1&write_back_type=read&write_back_delay_s=0.5")
    await api.services.write_back.flush()
    while time.time() < at + 20:
        if ids(await api.client.get("/recommend/ann?n=1")) == ["item-31"]:
            break
    else:
        pytest.fail("never withheld")
    assert time.time() - at >= 0.5


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/recommend", {"user_id": "ann", "write_back_type": "view"}, 422, "not-a-read-type"),
        ("/recommend", {"history": ["item-1"], "write_back_type": "read"}, 422, "invalid-request"),
        ("/recommend", {"user_id": "ann", "write_back_type": "read", "write_back_delay_s": -1}, 422, "invalid-request"),
        ("/users/ann/blocks", {"block": "item-1"}, 422, "invalid-request"),
        ("/users/ann/blocks", {"add": ["item-1"]}, 422, "invalid-request"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    api: RunningApp, path: str, body: dict[str, object], status: int, kind: str
) -> None:
    answer = await api.client.request("PATCH" if "blocks" in path else "POST", path, json=body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:tessera:problem:{kind}")


async def test_without_redis_lists_go_on_and_say_so_and_write_backs_are_counted(
    settings: Settings, stored: redis.Redis
) -> None:
    async with running(settings) as app:
        embedded_redis.stop(settings.home)
        answer = await app.client.get("/recommend/ann?write_back_type=read")
        assert (answer.status_code, answer.json()["degraded"]) == (200, True)
        for path in ("/popular", "/latest", "/similar/item-1"):
            answer = await app.client.get(f"{path}?user_id=ann")
            assert (answer.status_code, answer.json()["degraded"]) == (200, True)
        for method in ("GET", "PATCH"):
            answer = await app.client.request(method, "/users/ann/blocks", json={} if method == "PATCH" else None)
            assert answer.status_code == 503
        await app.services.write_back.flush()
        text = (await app.client.get("/metrics")).text
        assert 'tessera_write_back_dropped_total{reason="redis"} 1.0' in text
