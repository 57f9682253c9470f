"""Switching the served version over HTTP."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from app.settings import Settings
from model_store.bundle import ModelStore
from model_store.cache_keys import Keys
from tests.app.conftest import Cache, RunningApp, running
from tests.app.light_bundle import publish_light_bundle
from tests.app.test_problems import assert_problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_store(tmp_path: Path) -> ModelStore:
    """Two versions; `two` was activated after `one`."""
    publish_light_bundle(tmp_path / "store", "one")
    publish_light_bundle(tmp_path / "store", "two", seed=1)
    return ModelStore(tmp_path / "store")


@pytest.fixture
async def api(settings: Settings, stored: redis.Redis, own_store: ModelStore) -> AsyncIterator[RunningApp]:
    async with running(settings.model_copy(update={"store": own_store.root})) as app:
        yield app


async def served_by(app: RunningApp) -> str:
    return str((await app.client.get("/models")).json()["served"])


async def follows(app: RunningApp, version: str) -> None:
    async with asyncio.timeout(5):
        while await served_by(app) != version:
            await asyncio.sleep(0.01)


async def test_activated_version_is_served_and_stays_after_a_restart(
    api: RunningApp, own_store: ModelStore, stored: redis.Redis
) -> None:
    assert await served_by(api) == "two"
    answer = (await api.client.post("/models/one/activate")).raise_for_status().json()
    assert (answer["version"], answer["before"]) == ("one", "two")
    await follows(api, "one")
    assert own_store.active() == "one"
    assert stored.get(Keys().active) == b"one"


async def test_rollback_goes_to_the_version_before(api: RunningApp, own_store: ModelStore) -> None:
    answer = (await api.client.post("/models/rollback")).raise_for_status().json()
    assert answer["version"] == own_store.active() == "one"
    await follows(api, "one")
    assert (await api.client.post("/models/rollback")).json()["version"] == "two"
    await follows(api, "two")


async def test_answer_warns_where_nothing_is_cached(api: RunningApp, own_store: ModelStore, cache: Cache) -> None:
    cold = (await api.client.post("/models/one/activate")).json()
    assert cold["cached_lists"] == 0
    assert "refreshed" in cold["warning"]
    for user in ("ann", "bob", "eve"):
        cache.put_entry(user, [1, 2], version="two")
    warm = (await api.client.post("/models/two/activate")).json()
    assert (warm["cached_lists"], warm["cached_lists_estimated"], warm["warning"]) == (3, False, None)


@pytest.mark.parametrize("version", ["three", "..", "%2e%2e%2fone", "a b"])
async def test_unknown_version_changes_nothing(api: RunningApp, own_store: ModelStore, version: str) -> None:
    answer = await api.client.post(f"/models/{version}/activate")
    assert answer.status_code == 404
    assert own_store.active() == "two"


async def test_corrupt_version_changes_nothing(api: RunningApp, own_store: ModelStore, stored: redis.Redis) -> None:
    (own_store.root / "one" / "popularity.npy").write_bytes(b"x")
    answer = await api.client.post("/models/one/activate")
    assert_problem(answer, 409, "model-unusable")
    assert answer.json()["detail"].startswith("one/popularity.npy: 1 bytes")
    assert str(own_store.root) not in answer.text
    assert own_store.active() == "two"
    assert stored.get(Keys().active) is None
    assert_problem(await api.client.post("/models/rollback"), 409, "model-unusable")


async def test_nothing_to_roll_back_to(settings: Settings, stored: redis.Redis, tmp_path: Path) -> None:
    publish_light_bundle(tmp_path / "fresh")
    async with running(settings.model_copy(update={"store": tmp_path / "fresh"})) as app:
        assert_problem(await app.client.post("/models/rollback"), 409, "no-earlier-model")


async def test_store_that_cannot_be_written(api: RunningApp, own_store: ModelStore, stored: redis.Redis) -> None:
    # Holds for root too, who may write where others may only read.
    for name in ("ACTIVE", "PREVIOUS"):
        (own_store.root / f".{name}-{os.getpid()}").mkdir()
    answer = await api.client.post("/models/one/activate")
    assert_problem(answer, 409, "store-read-only")
    assert "tessera models activate" in answer.json()["detail"]
    assert (own_store.active(), stored.get(Keys().active)) == ("two", None)


async def test_without_redis_nothing_changes(api: RunningApp, own_store: ModelStore, stored: redis.Redis) -> None:
    stored.shutdown()
    assert_problem(await api.client.post("/models/one/activate"), 503, "storage-unavailable")
    assert own_store.active() == "two"
