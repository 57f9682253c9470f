"""A refresh, and Redis under it, killed at random moments while a server answers.

    pytest tests/end_to_end/test_refresh_kills.py --kills 50 --redis-kills 10

Whatever is killed, the old version is served until the new one is whole, nobody is ever given half an entry, and after
`--resume` every user has exactly one complete entry.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app import embedded_redis
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import Keys
from offline.redis_connection import connect
from tests.app.test_server import free_port
from tests.cached_entries import cached_users, packed_entry
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.end_to_end

USERS = [f"user-{number}" for number in range(4000)]
K = 20
KEYS = Keys()
# So that a refresh that is killed every second or so is not also one that imports torch every time.
STARTER = multiprocessing.get_context("forkserver")
STARTER.set_forkserver_preload(["torch", "transformers", "model_store.decoders.torch_decoder", "offline.refresh.job"])


def refresh(environment: dict[str, str], *arguments: str) -> None:
    """`tessera refresh` in this process."""
    os.environ.update(environment)
    sys.argv = ["tessera", "refresh", "--beam", str(K), *arguments]
    sys.stderr = open(os.environ["TESSERA_HOME"] + "/refresh.log", "a")  # noqa: SIM115
    import tessera

    tessera.main()


@dataclass
class Visitor:
    """Asks the server for everyone's list, again and again, and keeps what came."""

    address: str
    seen: Counter[tuple[int, str, str, int]] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(base_url=self.address, timeout=10) as client:
            while not self.stopped.is_set():
                answer = client.get(f"/recommend/{random.choice(USERS)}")
                body = answer.json()
                self.seen[answer.status_code, body["model_version"], body["source"], len(body["items"])] += 1
                # Busy enough to be there at every moment, and leaves a core to what is tested.
                time.sleep(0.005)


class Shop:
    """A store with an old and a new version, everyone's history, and the old version served from the cache."""

    def __init__(self, root: Path) -> None:
        self.home, store = root / "home", root / "store"
        self.old, self.new = (build_tiny_bundle(store, version=f"v{n}", items=200, seed=n) for n in (1, 2))
        self.environment = {
            "TESSERA_HOME": str(self.home),
            "TESSERA_STORE": str(store),
            "OMP_NUM_THREADS": "1",
            # What is served is looked at here, not how fast it is on a machine that does all this at once.
            "TESSERA_REDIS_TIMEOUT_MS": "10000",
        }
        self.redis = connect(embedded_redis.ensure_running(self.home))
        rows = np.random.default_rng(0).integers(0, 200, (len(USERS), 6))
        pipeline = self.redis.pipeline(transaction=False)
        for user, items in zip(USERS, rows, strict=True):
            pipeline.rpush(KEYS.history(user), *(self.old.catalog.item_ids[item] for item in items))
        pipeline.execute()

    def kill_redis(self) -> None:
        os.kill(int((self.home / "redis" / "redis.pid").read_text()), signal.SIGKILL)

    def start_redis(self) -> None:
        """Start it again, where nobody else has done so yet."""
        self.redis = connect(embedded_redis.ensure_running(self.home))

    def start(self, *arguments: str) -> Any:
        process = STARTER.Process(target=refresh, args=(self.environment, *arguments))
        process.start()
        return process

    def refreshed(self, *arguments: str) -> int:
        process = self.start(*arguments)
        process.join()
        return int(process.exitcode)

    def active(self) -> str:
        return str(self.redis.get(KEYS.active).decode())

    def assert_entries_are_whole(self, bundle: Bundle, users: set[str]) -> None:
        for user in users:
            entry = CacheEntry.unpack(packed_entry(self.redis, KEYS, bundle.entry_layout, user) or b"")
            items = bundle.item_codes.items_of(entry.codes_KL)
            assert len(set(items.tolist())) == K
            assert items.min() >= 0

    def forget_new(self) -> None:
        """As if the new version had never been refreshed."""
        for number in range(self.new.entry_layout.buckets):
            self.redis.delete(KEYS.bucket(self.new.entry_layout, number))
        self.redis.delete(KEYS.refresh_ledger(self.new.version))

    @contextmanager
    def served(self) -> Iterator[Visitor]:
        port = free_port()
        command = [sys.executable, "-m", "tessera", "serve", "--decoder", "none", "--port", str(port)]
        log = (self.home / "server.log").open("wb")
        with subprocess.Popen(command, env=os.environ | self.environment, stderr=log) as server:
            visitor = Visitor(f"http://127.0.0.1:{port}")
            thread = threading.Thread(target=visitor.run)
            try:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    with suppress(httpx.TransportError):
                        if httpx.get(f"{visitor.address}/health/ready").status_code == 200:
                            break
                    time.sleep(0.1)
                thread.start()
                yield visitor
            finally:
                visitor.stopped.set()
                if thread.is_alive():
                    thread.join()
                server.terminate()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    assert shop.refreshed("--version", shop.old.version) == 0, (shop.home / "refresh.log").read_text()[-3000:]
    yield shop
    embedded_redis.stop(shop.home)


def test_a_refresh_killed_at_any_moment_goes_on_and_the_old_version_is_served_meanwhile(
    shop: Shop, pytestconfig: pytest.Config
) -> None:
    kills, moments = pytestconfig.getoption("kills"), random.Random(0)
    began = time.monotonic()
    shop.forget_new()
    assert shop.refreshed("--version", shop.new.version, "--shadow") == 0
    whole_s = time.monotonic() - began
    shop.forget_new()
    interrupted, progress = 0, []
    with shop.served() as visitor:
        # However long the machine takes to get going: some kills must meet it in the middle.
        while interrupted < kills or not any(0 < count < len(USERS) for count in progress):
            assert len(progress) < 10 * kills
            process = shop.start("--version", shop.new.version, "--resume", "--shadow")
            process.join(moments.uniform(0, whole_s))
            process.kill()
            process.join()
            interrupted += process.exitcode == -signal.SIGKILL
            done = cached_users(shop.redis, KEYS, shop.new.entry_layout)
            shop.assert_entries_are_whole(shop.new, set(moments.sample(sorted(done), min(200, len(done)))))
            assert shop.active() == shop.old.version
            progress.append(len(done))
            if process.exitcode == 0:
                assert done == set(USERS)
                shop.forget_new()
        assert shop.refreshed("--version", shop.new.version, "--resume") == 0
        assert cached_users(shop.redis, KEYS, shop.new.entry_layout) == set(USERS)
        shop.assert_entries_are_whole(shop.new, set(USERS))
        time.sleep(2)
    assert shop.active() == shop.new.version
    assert set(visitor.seen) == {(200, version.version, "cache", 10) for version in (shop.old, shop.new)}


def test_redis_killed_under_a_refresh_loses_nothing_and_the_old_version_is_served_throughout(
    shop: Shop, pytestconfig: pytest.Config
) -> None:
    kills, moments = pytestconfig.getoption("redis_kills"), random.Random(1)
    with shop.served() as visitor:
        for _ in range(kills):
            process = shop.start("--version", shop.new.version, "--resume", "--shadow")
            process.join(moments.uniform(1, 3))
            shop.kill_redis()
            process.join()
            assert process.exitcode in (0, 1)
            shop.start_redis()
            shop.assert_entries_are_whole(shop.old, set(USERS))
            done = cached_users(shop.redis, KEYS, shop.new.entry_layout)
            shop.assert_entries_are_whole(shop.new, done)
            assert shop.active() == shop.old.version
            if process.exitcode == 0:
                shop.forget_new()
        assert shop.refreshed("--version", shop.new.version, "--resume", "--shadow") == 0
        assert cached_users(shop.redis, KEYS, shop.new.entry_layout) == set(USERS)
        time.sleep(2)
        meanwhile = set(visitor.seen)
        visitor.seen.clear()
        time.sleep(1)
        after = set(visitor.seen)
    shop.assert_entries_are_whole(shop.new, set(USERS))
    # Without Redis nobody knows the user's history, so popular items answer.
    assert meanwhile - {(200, shop.old.version, "popular", 10)} == {(200, shop.old.version, "cache", 10)}
    assert after == {(200, shop.old.version, "cache", 10)}
