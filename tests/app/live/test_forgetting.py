"""A forgotten user is in no key and no value, and nothing that was under way brings them back."""

import asyncio
from collections.abc import Iterator

import pytest
import redis

from tests.app.conftest import Cache, RunningApp

pytestmark = pytest.mark.anyio


def strings_of(stored: redis.Redis) -> Iterator[bytes]:
    """Every key, field, member and value there is."""
    for key in stored.scan_iter():
        yield key
        match stored.type(key):
            case b"string":
                yield stored.get(key)
            case b"list":
                yield from stored.lrange(key, 0, -1)
            case b"set":
                yield from stored.smembers(key)
            case b"zset":
                yield from stored.zrange(key, 0, -1)
            case b"hash":
                for field, value in stored.hgetall(key).items():
                    yield field
                    yield value


def mentions(stored: redis.Redis, user: str) -> list[bytes]:
    return [text for text in strings_of(stored) if user.encode() in text]


@pytest.mark.parametrize("user", ["private-ann", "private/a b", "private{x}", "private}"])
async def test_no_key_mentions_a_forgotten_user(api: RunningApp, cache: Cache, user: str) -> None:
    cache.put_entry(user, [9, 8])
    events = [
        {"user_id": user, "item_id": "item-1", "id": f"{user}-1"},
        {"user_id": user, "item_id": "item-2", "type": "read"},
        {"user_id": "bob", "item_id": "item-1", "id": "1"},
    ]
    assert (await api.client.post("/events", json=events)).json()["accepted"] == 3
    await api.client.patch(f"/users/{user}/blocks", json={"block": ["item-3"]})
    body = (await api.client.get(f"/recommend/{user}?n=2&write_back_type=read")).json()
    click = {"user_id": user, "item_id": body["items"][0]["item_id"], "recommendation_id": body["recommendation_id"]}
    await api.client.post("/events", json=[click])
    for part in (api.services.freshness, api.services.write_back, api.services.attribution):
        await part.flush()
    assert len(mentions(cache.redis, user)) >= 5
    # Under way, and not in Redis yet.
    api.services.freshness.answered(user, fresh=False, wanting=True)
    api.services.write_back.shown(user, ["item-7"], 1.0)
    assert (await api.client.delete(f"/users/{user}")).json()["existed"]
    assert user not in api.services.event_refresh._waiting
    for part in (api.services.freshness, api.services.write_back, api.services.attribution):
        await part.flush()
    await asyncio.sleep(0.3)
    assert mentions(cache.redis, user) == []
    assert cache.history("bob") == ["item-1"]
    assert not (await api.client.delete(f"/users/{user}")).json()["existed"]
