"""The embedded Redis comes back by itself when it dies, and stays away when it was told to end."""

import asyncio
import os
import signal

import pytest
import redis

from app import embedded_redis
from app.settings import Settings
from tests.app.conftest import Cache, running

pytestmark = pytest.mark.anyio


async def test_a_killed_server_is_started_again_with_its_data(
    settings: Settings, stored: redis.Redis, cache: Cache
) -> None:
    cache.put_entry("ann", [9, 8, 7])
    async with running(settings) as app:
        accepted = await app.client.post("/events", json=[{"user_id": "bob", "item_id": "item-4"}])
        assert accepted.json()["accepted"] == 1
        os.kill(int(stored.info("server")["process_id"]), signal.SIGKILL)
        async with asyncio.timeout(10):
            while (await app.client.get("/recommend/ann?n=2")).json()["source"] != "popular":
                await asyncio.sleep(0.01)
            while (await app.client.get("/recommend/ann?n=2")).json()["source"] != "cache":
                await asyncio.sleep(0.02)
        assert (await app.client.get("/users/bob/history")).json()["items"] == ["item-4"]


async def test_a_server_that_was_told_to_end_stays_away(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings) as app:
        assert embedded_redis.stop(settings.home)
        await asyncio.sleep(1.2)
        assert not (await app.client.get("/health/ready")).json()["dependencies"]["redis"]["ok"]
