"""A cached answer costs one round trip to Redis, seen on the wire."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.embedded_redis import socket_path
from app.recommendation_cache import ITEM_CHANGES_READ
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, running
from tests.app.redis_wire import Turn, redis_wire
from tests.app.test_recommendation_cache import frozen

pytestmark = pytest.mark.anyio


@pytest.fixture
async def turns(settings: Settings, cache: Cache, tmp_path: Path) -> AsyncIterator[list[Turn]]:
    async with redis_wire(socket_path(settings.home), tmp_path / "wire.sock") as turns:
        yield turns


@pytest.fixture
async def api(settings: Settings, turns: list[Turn], tmp_path: Path) -> AsyncIterator[RunningApp]:
    """Its only Redis is behind the wire; it looks for another version in passing alone."""
    changed = {"redis_url": SecretStr(f"unix://{tmp_path}/wire.sock"), "active_poll_ms": 600_000}
    async with running(settings.model_copy(update=changed)) as app:
        await app.client.get("/recommend/nobody")
        await silence(turns)
        yield app


async def silence(turns: list[Turn]) -> None:
    """Return once everything that a start brings with it is done."""
    before = -1
    while before != len(turns) or not all(turn.answered for turn in turns):
        before = len(turns)
        await asyncio.sleep(0.2)


def of_requests(turns: list[Turn]) -> list[list[list[str]]]:
    """The commands of each turn. Counts and answers go to Redis once a second, apart from any request."""
    of_turns = [turn.commands for turn in turns]
    return [commands for commands in of_turns if commands[0][0] != "HINCRBY" and ":answers:" not in commands[0][1]]


def reading(cache: Cache, user: str) -> list[list[str]]:
    return [
        ["HGET", cache.keys.bucket_of(cache.layout(), user), user],
        ["LRANGE", cache.keys.history(user), "0", "-1"],
        ["ZRANGEBYSCORE", cache.keys.withheld(user), "-inf"],
    ]


def timeless(turns: list[list[list[str]]]) -> list[list[list[str]]]:
    """The same without the time of a read: what is withheld is from a time on."""
    return [[words[:3] if words[0] == "ZRANGEBYSCORE" else words for words in commands] for commands in turns]


def shared(cache: Cache) -> list[list[str]]:
    """What is read once a round trip: the version that is served, and the changes of items."""
    return [
        ["GET", cache.keys.active],
        ["XRANGE", cache.keys.items_log, "0-1", "+", "COUNT", str(ITEM_CHANGES_READ)],
    ]


async def test_cached_answer_is_one_round_trip(api: RunningApp, turns: list[Turn], cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    cache.put_history("ann", [20])
    turns.clear()
    for _ in range(10):
        assert (await api.client.get("/recommend/ann?n=3")).json()["source"] == "cache"
    assert timeless(of_requests(turns)) == [[*shared(cache), *reading(cache, "ann")]] * 10


async def test_batch_is_one_round_trip_too(api: RunningApp, turns: list[Turn], cache: Cache) -> None:
    users = [f"user-{number}" for number in range(100)]
    for user in users:
        cache.put_entry(user, [9, 8, 7])
    turns.clear()
    answers = (await api.client.post("/recommend/batch", json={"user_ids": users, "n": 3})).json()["answers"]
    assert {answer["source"] for answer in answers} == {"cache"}
    assert timeless(of_requests(turns)) == [
        [*shared(cache), *(words for user in users for words in reading(cache, user))]
    ]


async def test_counts_of_many_answers_are_one_round_trip(api: RunningApp, turns: list[Turn], cache: Cache) -> None:
    users = [f"user-{number}" for number in range(20)]
    for user in users:
        cache.put_history(user, [20])
        assert (await api.client.get(f"/recommend/{user}?n=3")).json()["source"] == "neighbors"
    await api.services.freshness.flush()
    turns.clear()
    for user in users:
        api.services.freshness.answered(user, fresh=False, wanting=True)
    await api.services.freshness.flush()
    (turn,) = turns
    assert [words[0] for words in turn.commands[-22:]] == ["ZINCRBY"] * 20 + ["ZREMRANGEBYRANK", "EXPIRE"]


async def test_wire_tells_round_trips_apart(turns: list[Turn], api: RunningApp, cache: Cache) -> None:
    turns.clear()
    assert (await api.client.delete("/users/ann")).status_code == 200
    first, second = of_requests(turns)
    assert first == [["HGETALL", cache.keys.caches]]
    assert [words[0] for words in second] == ["DEL", "DEL", "DEL", "ZREM", "ZREM", "HDEL", "DEL"]


async def test_answers_of_one_moment_share_one_round_trip(api: RunningApp, turns: list[Turn], cache: Cache) -> None:
    users = [f"user-{number}" for number in range(30)]
    for user in users:
        cache.put_entry(user, [9, 8, 7])
    turns.clear()
    answers = await asyncio.gather(*(api.client.get(f"/recommend/{user}?n=3") for user in users))
    assert {answer.json()["source"] for answer in answers} == {"cache"}
    (turn,) = timeless(of_requests(turns))
    assert turn == [*shared(cache), *(words for user in users for words in reading(cache, user))]


async def test_a_failure_of_a_shared_round_trip_degrades_every_answer(
    api: RunningApp, settings: Settings, turns: list[Turn], cache: Cache
) -> None:
    users = [f"user-{number}" for number in range(30)]
    for user in users:
        cache.put_entry(user, [9, 8, 7])
    with frozen(settings.home):
        answers = await asyncio.gather(*(api.client.get(f"/recommend/{user}?n=3") for user in users))
    assert {answer.status_code for answer in answers} == {200}
    assert {(answer.json()["source"], answer.json()["degraded"]) for answer in answers} == {("popular", True)}
    await asyncio.sleep(0.1)
    assert (await api.client.get("/recommend/user-0?n=3")).json()["source"] == "cache"
