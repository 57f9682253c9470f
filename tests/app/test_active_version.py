"""The served version follows `{ns}:active` while requests go on."""

import asyncio
import time
from pathlib import Path

import pytest
import redis

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import ModelStore
from model_store.errors import BundleNotFound
from tests.app.conftest import RunningApp, running
from tests.app.light_bundle import publish_light_bundle

pytestmark = pytest.mark.anyio

ACTIVE = "tessera:active"


@pytest.fixture
def settings(tmp_path: Path, home: Path) -> Settings:
    """With a store of its own: these tests publish."""
    publish_light_bundle(tmp_path / "store", "one")
    publish_light_bundle(tmp_path / "store", "two", seed=1)
    ModelStore(tmp_path / "store").activate("one")
    return Settings(store=tmp_path / "store", home=home, active_poll_ms=20, redis_cooldown_ms=50)


async def version(app: RunningApp) -> str:
    return str((await app.client.get("/recommend/ann?n=1")).json()["model_version"])


async def becomes(app: RunningApp, expected: str) -> None:
    deadline = time.monotonic() + 5
    while await version(app) != expected:
        assert time.monotonic() < deadline, f"still not serving {expected}"
        await asyncio.sleep(0.01)


async def test_redis_decides_at_the_start(settings: Settings, stored: redis.Redis) -> None:
    stored.set(ACTIVE, "two")
    async with running(settings) as app:
        assert await version(app) == "two"


async def test_store_decides_where_redis_says_nothing_usable(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings) as app:
        assert await version(app) == "one"
    stored.set(ACTIVE, "not-here-yet")
    async with running(settings) as app:
        assert await version(app) == "one"


async def test_change_is_followed_without_failing_a_request(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings) as app:
        assert await version(app) == "one"
        for name in ("two", "one", "two"):
            stored.set(ACTIVE, name)
            await becomes(app, name)


async def test_request_notices_a_change_before_the_next_poll(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings.model_copy(update={"active_poll_ms": 60_000})) as app:
        assert await version(app) == "one"
        stored.set(ACTIVE, "two")
        await becomes(app, "two")


async def test_change_of_the_store_is_followed_where_redis_says_nothing(
    settings: Settings, stored: redis.Redis
) -> None:
    async with running(settings) as app:
        ModelStore(settings.store).activate("two")
        await becomes(app, "two")


async def test_unusable_version_changes_nothing(settings: Settings, stored: redis.Redis) -> None:
    (settings.store / "two" / "popularity.npy").write_bytes(b"not an array")
    async with running(settings) as app:
        stored.set(ACTIVE, "two")
        await asyncio.sleep(0.2)
        assert await version(app) == "one"
        text = (await app.client.get("/metrics")).text
        assert 'tessera_model_swaps_total{outcome="failed"} 1.0' in text, "tried once, not at every look"


async def test_outage_changes_nothing(settings: Settings, stored: redis.Redis) -> None:
    stored.set(ACTIVE, "two")
    async with running(settings) as app:
        embedded_redis.stop(settings.home)
        await asyncio.sleep(0.1)
        assert await version(app) == "two", "not the store's version, which is another"


async def test_nothing_active_is_an_error_at_the_start(settings: Settings, stored: redis.Redis) -> None:
    (settings.store / "ACTIVE").unlink()
    with pytest.raises(BundleNotFound, match="no active version"):
        async with running(settings):
            pass
