"""A version is switched under running workers: nothing fails, nothing restarts, no answer is of two versions."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from app.settings import Settings
from model_store.bundle import ModelStore
from model_store.cache_keys import Keys
from tests.app.light_bundle import publish_light_bundle
from tests.app.plain_decoder import PlainDecoder, plain_decoder
from tests.app.running_server import served
from tests.cached_entries import packed_entry

KEYS = Keys()
WORKERS = 2


@pytest.fixture
def models(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    publish_light_bundle(store.root, "one")
    publish_light_bundle(store.root, "two", seed=1)
    store.activate("one")
    return store


@pytest.fixture
def decoder(models: ModelStore, tmp_path: Path) -> Iterator[PlainDecoder]:
    with plain_decoder(models.open("one").item_codes.codes_NL, tmp_path / "decoder.sock") as decoder:
        yield decoder


@pytest.fixture
def settings(models: ModelStore, home: Path, decoder: PlainDecoder) -> Settings:
    """With the poll that servers have unless told otherwise."""
    return Settings(store=models.root, home=home, decoder_address=decoder.address, live_deadline_ms=10_000)


def version(server: httpx.Client, user: str = "nobody") -> str:
    """The version of one answer, over a new connection: the system gives it to whichever worker."""
    answer = httpx.get(f"{server.base_url}/recommend/{user}?n=1", timeout=20)
    assert answer.status_code == 200
    return str(answer.json()["model_version"])


def swaps(server: httpx.Client) -> float:
    """Switches of all workers."""
    found = re.search(r'tessera_model_swaps_total\{outcome="done"\} (\S+)', server.get("/metrics").text)
    return float(found[1]) if found else 0.0


def test_all_workers_follow_within_a_second_and_back(settings: Settings, stored: redis.Redis) -> None:
    with served(settings, WORKERS) as server:
        assert {version(server) for _ in range(20)} == {"one"}
        for turn, name in enumerate(("two", "one"), start=1):
            stored.set(KEYS.active, name)
            switched = last_other = time.monotonic()
            while time.monotonic() < switched + 2:
                asked = time.monotonic()
                if version(server) != name:
                    last_other = asked
            assert last_other - switched < 1
            assert swaps(server) == turn * WORKERS, "each worker once, by itself"


def test_request_under_way_ends_on_the_version_it_began_with(
    settings: Settings, models: ModelStore, stored: redis.Redis, decoder: PlainDecoder
) -> None:
    stored.rpush(KEYS.history("ann"), "item-20")
    decoder.delay_s = 3
    with served(settings, WORKERS) as server, ThreadPoolExecutor() as threads:
        under_way = threads.submit(version, server, "ann")
        deadline = time.monotonic() + 30
        while not decoder.asked:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stored.set(KEYS.active, "two")
        while swaps(server) < WORKERS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not under_way.done(), "every worker has switched in the meantime"
        assert under_way.result() == "one"
        assert decoder.asked[0].version == "one"
        one, two = (models.open(name).entry_layout for name in ("one", "two"))
        while packed_entry(stored, KEYS, one, "ann") is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert packed_entry(stored, KEYS, two, "ann") is None, "kept where it belongs"
