"""Files that are damaged while a version is served do not reach an answer; a start with damaged files names one."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import redis

from app.main import serve
from app.settings import Settings
from model_store.bundle import ModelStore
from model_store.errors import BundleCorrupt
from tests.app.conftest import running
from tests.app.light_bundle import publish_light_bundle
from tests.app.running_server import ROOT

pytestmark = pytest.mark.anyio

READ_BY_THE_API = ("item_codes.npy", "items.parquet", "popularity.npy", "item_embeddings.npy", "items.faiss")


@pytest.fixture
def settings(tmp_path: Path, home: Path) -> Settings:
    """With a store of its own: these tests damage it."""
    publish_light_bundle(tmp_path / "store", "two", seed=1)
    publish_light_bundle(tmp_path / "store", "one")
    return Settings(store=tmp_path / "store", home=home, active_poll_ms=20)


def overwrite(path: Path) -> None:
    """Other bytes in the same file, as a bad disk or a careless copy leaves them: who has it mapped sees them."""
    with path.open("r+b") as stream:
        stream.write(b"\xff" * path.stat().st_size)


def cut_short(path: Path) -> None:
    """Who has it mapped is killed by the next look at it."""
    os.truncate(path, 0)


async def answers(client: httpx.AsyncClient) -> list[object]:
    """Of every part that reads the bundle, without what differs from one answer to the next."""
    session = (await client.post("/recommend", json={"history": ["item-1", "item-2"], "n": 5})).json()
    popular = (await client.get("/popular?n=5")).json()
    similar = (await client.get("/similar/item-7?n=5")).json()
    return [session["source"], session["items"], popular["items"], similar["items"]]


@pytest.mark.parametrize("damage", [overwrite, cut_short])
async def test_the_served_version_goes_on_whatever_becomes_of_its_files(
    settings: Settings, stored: redis.Redis, damage
) -> None:
    async with running(settings) as app:
        before = await answers(app.client)
        for name in READ_BY_THE_API:
            damage(settings.store / "one" / name)
        assert await answers(app.client) == before


@pytest.mark.parametrize("name", ["manifest.json", "items.parquet"])
async def test_a_damaged_version_that_is_activated_stops_nothing(
    settings: Settings, stored: redis.Redis, name: str
) -> None:
    overwrite(settings.store / "two" / name)
    async with running(settings) as app:
        stored.set("tessera:active", "two")
        async with asyncio.timeout(5):
            while 'tessera_model_swaps_total{outcome="failed"} 1.0' not in (await app.client.get("/metrics")).text:
                await asyncio.sleep(0.02)
        publish_light_bundle(settings.store, "three", seed=2)
        stored.set("tessera:active", "three")
        async with asyncio.timeout(5):
            while (await app.client.get("/recommend/ann?n=1")).json()["model_version"] != "three":
                await asyncio.sleep(0.02)


async def test_an_unreadable_pointer_stops_nothing(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings) as app:
        (settings.store / "ACTIVE").write_bytes(b"\xff\xfe")
        await asyncio.sleep(0.1)
        ModelStore(settings.store)._point("ACTIVE", "two")
        async with asyncio.timeout(5):
            while (await app.client.get("/recommend/ann?n=1")).json()["model_version"] != "two":
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", ["manifest.json", "items.parquet", "item_codes.npy", "ACTIVE"])
async def test_a_start_names_the_damaged_file(settings: Settings, stored: redis.Redis, name: str) -> None:
    overwrite(settings.store / ("" if name == "ACTIVE" else "one") / name)
    with pytest.raises(BundleCorrupt, match=name):
        # Not in the loop of the test: it runs one of its own.
        await asyncio.to_thread(serve, settings, "127.0.0.1", 0)


async def test_the_command_says_so_in_one_line(settings: Settings, stored: redis.Redis) -> None:
    overwrite(settings.store / "one" / "item_codes.npy")
    environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
    for workers in ("1", "2"):
        command = [sys.executable, "-m", "tessera", "serve", "--decoder", "none", "--port", "0", "--workers", workers]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "item_codes.npy: its content changed" in line
