"""A real Redis, a real bundle and the real application around them, new for each test."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import redis

from app import embedded_redis
from app.dependencies import Services
from app.main import create_app
from app.settings import Settings
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import EntryLayout, Keys
from tests.app.light_bundle import publish_light_bundle
from tests.cached_entries import packed_entry, put_packed


class RunningApp:
    """An application within its lifespan, and a client of it."""

    def __init__(self, services: Services, client: httpx.AsyncClient) -> None:
        self.services = services
        self.client = client


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def bundle(store: Path) -> Bundle:
    return publish_light_bundle(store)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    embedded_redis.stop(home)


@pytest.fixture
def settings(store: Path, bundle: Bundle, home: Path) -> Settings:
    """Patient with Redis: what is late on a busy machine is not what most tests are about."""
    return Settings(
        store=store,
        home=home,
        redis_timeout_ms=1000,
        redis_write_timeout_ms=3000,
        redis_cooldown_ms=50,
        active_poll_ms=20,
    )


@pytest.fixture
def stored(settings: Settings) -> Iterator[redis.Redis]:
    """A client of the Redis that the application under test uses."""
    with redis.Redis.from_url(embedded_redis.ensure_running(settings.home)) as client:
        yield client


@asynccontextmanager
async def running(settings: Settings, address: tuple[str, int] = ("127.0.0.1", 40000)) -> AsyncIterator[RunningApp]:
    """Start an application; requests seem to come from `address`."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, client=address)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield RunningApp(app.state.services, client)


@pytest.fixture
async def api(settings: Settings, stored: redis.Redis) -> AsyncIterator[RunningApp]:
    async with running(settings) as app:
        yield app


@pytest.fixture
async def client(api: RunningApp) -> httpx.AsyncClient:
    return api.client


class Cache:
    """Puts into Redis what a refresh would, and looks at what the application has put there."""

    def __init__(self, stored: redis.Redis, bundle: Bundle, namespace: str) -> None:
        self.redis = stored
        self.keys = Keys(namespace)
        self.bundle = bundle

    def put_entry(self, user_id: str, items: Sequence[int], *, age_s: float = 0, version: str | None = None) -> None:
        codes = self.bundle.item_codes.codes_NL[np.array(items, dtype=np.int64)]
        scores = np.arange(len(items), dtype=np.float16) * np.float16(-0.5)
        entry = CacheEntry(codes, scores, self._digest(user_id), int(time.time() - age_s), "torch")
        self.put_packed(user_id, entry.pack(), version=version)

    def put_packed(self, user_id: str, packed: bytes, *, version: str | None = None) -> None:
        put_packed(self.redis, self.keys, self.layout(version), user_id, packed)

    def packed(self, user_id: str, *, version: str | None = None) -> bytes | None:
        """The bytes of a user's entry, None where there is none."""
        return packed_entry(self.redis, self.keys, self.layout(version), user_id)

    def layout(self, version: str | None = None) -> EntryLayout:
        layout = self.bundle.entry_layout
        return layout if version is None else replace(layout, cache_version=version)

    def put_history(self, user_id: str, items: Sequence[int]) -> None:
        """Add to a user's history. An entry that is there already counts as decoded from the whole of it."""
        self.redis.rpush(self.keys.history(user_id), *[f"item-{item}" for item in items])
        self._decoded_from(user_id, self._digest(user_id))

    def mark_dirty(self, user_id: str) -> None:
        """As if the user's entry had been decoded from another history."""
        self.redis.zadd(self.keys.dirty, {user_id: time.time()})
        self._decoded_from(user_id, self._digest(user_id) ^ 1)

    def _digest(self, user_id: str) -> int:
        return history_digest(self.redis.lrange(self.keys.history(user_id), 0, -1))

    def _decoded_from(self, user_id: str, digest: int) -> None:
        for key in self.redis.scan_iter(f"{self.keys.namespace}:entries:*"):
            packed = self.redis.hget(key, user_id)
            if packed is not None:
                entry = replace(CacheEntry.unpack(packed), history_digest=digest)
                self.redis.hset(key, user_id, entry.pack())

    def is_dirty(self, user_id: str) -> bool:
        return self.redis.zscore(self.keys.dirty, user_id) is not None

    def demand(self) -> dict[str, float]:
        """Users who were left wanting, and how often."""
        return {user.decode(): times for user, times in self.redis.zrange(self.keys.demand, 0, -1, withscores=True)}

    def served(self) -> tuple[int, int]:
        """Fresh answers and all answers to users with a history, whatever the minute."""
        minutes = [self.redis.hgetall(key) for key in self.redis.scan_iter(self.keys.served(0)[:-1] + "*")]
        return sum(int(one[b"fresh"]) for one in minutes), sum(int(one[b"all"]) for one in minutes)

    def history(self, user_id: str) -> list[str]:
        return [item.decode() for item in self.redis.lrange(self.keys.history(user_id), 0, -1)]


@pytest.fixture
def cache(stored: redis.Redis, bundle: Bundle, settings: Settings) -> Cache:
    return Cache(stored, bundle, settings.namespace)


def ids(answer: httpx.Response) -> list[str]:
    """The item ids of an answer, best first."""
    return [item["item_id"] for item in answer.json()["items"]]
