"""An event with an id is recorded once, whoever sends it how often, and is never taken for recorded when it is not."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from app import embedded_redis
from app.embedded_redis import socket_path
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, running
from tests.app.redis_gate import RedisGate, redis_gate

pytestmark = pytest.mark.anyio


def named(user: str, item: int, event_id: str, **more: object) -> dict[str, object]:
    return {"user_id": user, "item_id": f"item-{item}", "id": event_id, **more}


@asynccontextmanager
async def behind_a_gate(settings: Settings, folder: Path) -> AsyncIterator[tuple[RunningApp, RedisGate]]:
    async with redis_gate(socket_path(settings.home), folder / "gate.sock") as gate:
        changed = {"redis_url": SecretStr(f"unix://{folder}/gate.sock"), "redis_timeout_ms": 1000}
        async with running(settings.model_copy(update=changed)) as app:
            yield app, gate
            gate.open.set()


async def test_known_ids_are_accepted_and_not_recorded_again(api: RunningApp, cache: Cache) -> None:
    first = await api.client.post("/events", json=[named("ann", 1, "a"), named("ann", 2, "b"), named("bob", 1, "a")])
    assert first.json() == {"accepted": 3, "duplicates": 0, "rejected": []}
    again = await api.client.post("/events", json=[named("ann", 1, "a"), named("ann", 3, "c"), named("ann", 3, "c")])
    assert again.json() == {"accepted": 3, "duplicates": 2, "rejected": []}
    assert cache.history("ann") == ["item-1", "item-2", "item-3"]
    assert cache.history("bob") == ["item-1"], "an id is the user's own"
    text = (await api.client.get("/metrics")).text
    assert 'tessera_events_total{attributed="",outcome="duplicate"} 2.0' in text
    assert 'tessera_events_total{attributed="no",outcome="accepted"} 4.0' in text


async def test_ids_hold_across_workers_and_restarts(settings: Settings, cache: Cache) -> None:
    sent = [named(f"user-{number % 7}", number, str(number)) for number in range(40)]
    async with running(settings) as one, running(settings) as other:
        posts = [app.client.post("/events", json=sent) for _ in range(5) for app in (one, other)]
        answers = [answer.json() for answer in await asyncio.gather(*posts)]
        assert sum(answer["accepted"] - answer["duplicates"] for answer in answers) == 40
    embedded_redis.stop(settings.home)
    embedded_redis.ensure_running(settings.home)
    async with running(settings) as app:
        assert (await app.client.post("/events", json=sent)).json()["duplicates"] == 40
    recorded = [item for user in range(7) for item in cache.history(f"user-{user}")]
    assert sorted(recorded) == sorted(f"item-{number}" for number in range(40))


async def test_two_workers_that_fight_for_one_user_lose_and_repeat_nothing(settings: Settings, cache: Cache) -> None:
    async with running(settings) as one, running(settings) as other:
        posts = [
            app.client.post("/events", json=[named("ann", number, str(number))])
            for number in range(50)
            for app in (one, other)
        ]
        answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {200}
    assert sum(answer.json()["duplicates"] for answer in answers) == 50
    assert sorted(cache.history("ann")) == sorted(f"item-{number}" for number in range(50))


async def test_an_id_is_forgotten_after_its_time(settings: Settings, cache: Cache) -> None:
    async with running(settings.model_copy(update={"event_id_ttl_s": 60})) as app:
        await app.client.post("/events", json=[named("ann", 1, "a"), named("ann", 2, "b")])
        assert 0 < cache.redis.ttl(cache.keys.event_ids("ann")) <= 60
        cache.redis.zadd(cache.keys.event_ids("ann"), {"a": time.time() - 61})
        again = await app.client.post("/events", json=[named("ann", 1, "a"), named("ann", 2, "b")])
    assert again.json()["duplicates"] == 1
    assert cache.history("ann") == ["item-1", "item-2", "item-1"]
    assert cache.redis.zcard(cache.keys.event_ids("ann")) == 2


async def test_reads_have_ids_too(api: RunningApp, cache: Cache) -> None:
    sent = [named("ann", 1, "a", type="read"), named("ann", 2, "b")]
    assert (await api.client.post("/events", json=sent)).json()["duplicates"] == 0
    assert (await api.client.post("/events", json=sent)).json()["duplicates"] == 2
    assert cache.history("ann") == ["item-2"]
    assert cache.redis.zcard(cache.keys.withheld("ann")) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_connection_lost_around_the_transaction(
    settings: Settings, cache: Cache, tmp_path: Path, when: str
) -> None:
    sent = [named("ann", 1, "a"), named("bob", 2, "a")]
    async with behind_a_gate(settings, tmp_path) as (app, gate):
        gate.lose = when  # type: ignore[assignment]
        lost = await app.client.post("/events", json=sent)
        assert gate.lost
        assert lost.status_code == 503
        await asyncio.sleep(0.1)
        recorded = when == "after"
        assert (cache.history("ann"), cache.history("bob")) == ((["item-1"], ["item-2"]) if recorded else ([], []))
        assert cache.redis.exists(cache.keys.event_ids("ann")) == recorded, "neither without the other"
        again = await app.client.post("/events", json=sent)
        assert again.json() == {"accepted": 2, "duplicates": 2 if recorded else 0, "rejected": []}
    assert (cache.history("ann"), cache.history("bob")) == (["item-1"], ["item-2"])


async def test_killed_redis_loses_no_acknowledged_event_and_repeats_none(
    settings: Settings, stored: redis.Redis
) -> None:
    acknowledged: set[int] = set()
    async with running(settings) as app:
        for number in range(40):
            if number % 10 == 5:
                os.kill(int((settings.home / "redis" / "redis.pid").read_text()), signal.SIGKILL)
            answer = await app.client.post("/events", json=[named("ann", number, str(number))])
            if answer.status_code == 200:
                acknowledged.add(number)
            else:
                assert answer.status_code == 503
                (settings.home / "redis" / "redis.pid").unlink(missing_ok=True)
                embedded_redis.ensure_running(settings.home)
                await asyncio.sleep(0.2)
        assert len(acknowledged) >= 30
        history = (await app.client.get("/users/ann/history")).json()["items"]
        assert {f"item-{number}" for number in acknowledged} <= set(history)
        for number in range(40):
            answer = await app.client.post("/events", json=[named("ann", number, str(number))])
            assert answer.status_code == 200
            assert answer.json()["duplicates"] == int(number in acknowledged) or number not in acknowledged
        history = (await app.client.get("/users/ann/history")).json()["items"]
        assert sorted(history) == sorted(f"item-{number}" for number in range(40))


async def test_an_event_that_redis_does_not_take_keeps_no_id(api: RunningApp, cache: Cache) -> None:
    cache.redis.set(cache.keys.history("ann"), "not a list")
    assert (await api.client.post("/events", json=[named("ann", 1, "a")])).status_code == 503
    cache.redis.delete(cache.keys.history("ann"))
    assert (await api.client.post("/events", json=[named("ann", 1, "a")])).json()["duplicates"] == 0
    assert cache.history("ann") == ["item-1"]
    cache.redis.config_set("maxmemory", 1)
    assert (await api.client.post("/events", json=[named("ann", 2, "b")])).status_code == 503
    cache.redis.config_set("maxmemory", 0)
    assert (await api.client.post("/events", json=[named("ann", 2, "b")])).json()["duplicates"] == 0


async def test_beyond_the_queue_is_a_429_and_what_was_taken_is_recorded(
    settings: Settings, cache: Cache, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"event_queue": 25, "redis_write_timeout_ms": 20_000})
    async with behind_a_gate(small, tmp_path) as (app, gate):
        gate.open.clear()
        posts = [
            asyncio.create_task(app.client.post("/events", json=[named(f"u{post}", item, "x") for item in range(10)]))
            for post in range(6)
        ]
        refused, waiting = await asyncio.wait(posts, timeout=2)
        assert (len(refused), len(waiting)) == (4, 2), "two of ten events each fit into 25"
        for answer in [task.result() for task in refused]:
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.json()["type"] == "urn:tessera:problem:too-many-events"
        assert (await app.client.get("/popular")).status_code == 200
        gate.open.set()
        taken = [await task for task in waiting]
        assert [answer.json()["accepted"] for answer in taken] == [10, 10]
        assert len(list(cache.redis.scan_iter("tessera:hist:*"))) == 2
        text = (await app.client.get("/metrics")).text
        assert 'tessera_events_total{attributed="",outcome="too_many"} 40.0' in text
        alone = await app.client.post("/events", json=[named("u9", item, str(item)) for item in range(40)])
        assert alone.json()["accepted"] == 40, "more than the queue, but nothing else is being written"


async def test_a_slow_redis_refuses_what_it_cannot_take_and_loses_nothing(
    settings: Settings, cache: Cache, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"event_queue": 100, "redis_write_timeout_ms": 5000})
    accepted: set[str] = set()
    async with behind_a_gate(small, tmp_path) as (app, gate):
        gate.wait_s = 0.05

        async def post(user: str) -> int:
            answer = await app.client.post("/events", json=[named(user, item, str(item)) for item in range(20)])
            if answer.status_code == 200:
                accepted.add(user)
            return answer.status_code

        statuses = await asyncio.gather(*(post(f"u{number}") for number in range(60)))
        gate.wait_s = 0
    assert set(statuses) == {200, 429}
    recorded = {
        key.decode().rpartition(":")[2]: cache.redis.llen(key) for key in cache.redis.scan_iter("tessera:hist:*")
    }
    assert recorded == dict.fromkeys(accepted, 20)
