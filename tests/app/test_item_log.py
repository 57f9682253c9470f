"""The log of item changes in Redis: read on, cut off, lost, and read anew."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import redis
from pydantic import SecretStr

from app import embedded_redis, item_log
from app.settings import Settings
from model_store.cache_keys import Keys
from tests.app.conftest import RunningApp, ids, running

pytestmark = pytest.mark.anyio

KEYS = Keys()


async def hide(app: RunningApp, *items: int) -> None:
    for item in items:
        assert (await app.client.patch(f"/items/item-{item}", json={"hidden": True})).status_code == 200


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    # By the clock: a timeout's cancellation can be lost within redis-py.
    deadline = time.monotonic() + 10
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def shows(app: RunningApp, item: int) -> bool:
    return f"item-{item}" in ids(await app.client.get("/popular?n=100"))


async def test_log_is_cut_off_once_the_snapshot_has_it(
    api: RunningApp, settings: Settings, stored: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_log, "LOG_KEPT_S", -1)
    # Redis cuts off in pieces of a hundred.
    await hide(api, *[item % 10 for item in range(350)])
    before = dict(api.services.overlay.records)
    await api.services.item_log.compact()
    assert stored.xlen(KEYS.items_log) < 150
    assert stored.hlen(KEYS.items) == 10
    await hide(api, 11)
    async with running(settings) as later:
        assert dict(later.services.overlay.records) == before | {"item-11": {"hidden": True}}


async def test_log_keeps_what_others_may_still_read_on_from(api: RunningApp, stored: redis.Redis) -> None:
    await hide(api, *[item % 10 for item in range(250)])
    await api.services.item_log.compact()
    assert stored.xlen(KEYS.items_log) == 250


async def test_whoever_dies_between_snapshot_and_position_does_no_harm(
    api: RunningApp, settings: Settings, stored: redis.Redis
) -> None:
    await hide(api, 1, 2)
    await api.services.item_log.compact()
    upto = stored.get(KEYS.items_upto)
    await api.client.patch("/items/item-1", json={"hidden": False, "price": 3})
    await api.client.delete("/items/item-2")
    await api.client.put("/items/item-2", json={"title": "back"})
    await api.services.item_log.compact()
    assert upto is not None
    stored.set(KEYS.items_upto, upto)
    async with running(settings) as later:
        assert dict(later.services.overlay.records) == dict(api.services.overlay.records)


async def test_snapshot_is_brought_up_to_date_unasked(
    settings: Settings, stored: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_log, "COMPACT_S", 1)
    async with running(settings) as app:
        await hide(app, 1)

        async def snapshot_has_it() -> bool:
            return bool(stored.hexists(KEYS.items, "item-1"))

        await eventually(snapshot_has_it)
        assert 0 < stored.ttl(KEYS.items_compacting) <= 1 or not stored.exists(KEYS.items_compacting)


async def test_lost_data_is_noticed_and_read_anew(api: RunningApp, stored: redis.Redis) -> None:
    await hide(api, 1)
    stored.flushall()
    await eventually(lambda: shows(api, 1))
    assert dict(api.services.overlay.records) == {}


async def test_lost_data_is_noticed_though_others_have_written_since(api: RunningApp, stored: redis.Redis) -> None:
    await hide(api, 1, 2)
    entries = stored.xrange(KEYS.items_log)
    stored.delete(KEYS.items_log)
    # An append-only file may lack its last second: the second change is gone, and another has come.
    stored.xadd(KEYS.items_log, entries[0][1], id=entries[0][0])
    stored.xadd(KEYS.items_log, {"changes": b'[["item-3","patch",{"hidden":true}]]'})
    await eventually(lambda: shows(api, 2))
    assert set(api.services.overlay.records) == {"item-1", "item-3"}


async def test_worker_that_has_heard_nothing_for_long_reads_everything(
    api: RunningApp, stored: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hide(api, 1)
    await api.services.item_log.compact()
    stored.hset(KEYS.items, "item-2", b'{"hidden":true}')
    assert "item-2" in ids(await api.client.get("/popular?n=100"))
    monkeypatch.setattr(item_log, "UNHEARD_S", -1.0)

    async def is_gone() -> bool:
        return not await shows(api, 2)

    await eventually(is_gone)


async def test_worker_that_started_without_redis_reads_items_when_it_is_there(
    settings: Settings, stored: redis.Redis
) -> None:
    async with running(settings) as other:
        await hide(other, 1)
    embedded_redis.stop(settings.home)
    address = SecretStr(f"unix://{embedded_redis.socket_path(settings.home)}")
    async with running(settings.model_copy(update={"redis_url": address})) as app:
        assert (await app.client.get("/recommend/ann")).json()["degraded"]
        embedded_redis.ensure_running(settings.home)

        async def has_healed() -> bool:
            return not (await app.client.get("/recommend/ann")).json()["degraded"]

        await eventually(has_healed)
        assert "item-1" not in ids(await app.client.get("/popular?n=100"))


async def test_entry_that_cannot_be_read_holds_nobody_up(api: RunningApp, stored: redis.Redis) -> None:
    stored.xadd(KEYS.items_log, {"changes": b"{"})
    await hide(api, 1)
    assert "item-1" not in ids(await api.client.get("/popular?n=100"))
