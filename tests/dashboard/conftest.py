"""The dashboard in a real Chromium, in front of a real `tessera serve` with a real Redis and a real worker."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app import embedded_redis
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import Keys
from model_store.catalog import Catalog
from tests.app.running_server import ROOT, free_port
from tests.tiny_bundle import build_tiny_bundle

ITEMS, USERS = 60, 40
FIRST, SECOND = "tiny-1", "tiny-2"
NASTY = "<script>document.title='owned'</script>\"'><img src=x onerror=\"document.title='owned'\">"
"""An item's id and title, and a user's id, that must stay text."""
# The page's own policy forbids what `wait_for_function` does, so tests wait with `expect`.
expect.set_options(timeout=20_000)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def item_id(number: int) -> str:
    return NASTY if number == ITEMS - 1 else f"item-{number}"


@dataclass
class Place:
    """A store with two versions, the second active, and the Redis of a home."""

    folder: Path
    bundles: dict[str, Bundle] = field(default_factory=dict)

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(embedded_redis.ensure_running(self.folder / "home"))

    def fill(self, user: str, history: Sequence[int], items: Sequence[int], version: str = SECOND) -> None:
        """What a refresh leaves behind."""
        bundle, keys, client = self.bundles[version], Keys(), self.redis
        seen = [item_id(number).encode() for number in history]
        client.delete(keys.history(user))
        client.rpush(keys.history(user), *seen)
        scores = -np.arange(1, len(items) + 1, dtype=np.float16) / 2
        codes = bundle.item_codes.codes_NL[np.array(items)]
        entry = CacheEntry(codes, scores, history_digest(seen), int(time.time()) - 7200, "torch")
        client.hset(keys.bucket_of(bundle.entry_layout, user), user, entry.pack())
        client.hset(keys.caches, bundle.cache_version, bundle.entry_layout.buckets)

    @contextmanager
    def served(self, *options: str, **variables: str) -> Iterator[str]:
        """`tessera serve` without a decoder; gives its address."""
        port = free_port()
        command = [sys.executable, "-m", "tessera", "serve", "--decoder", "none", "--port", str(port), *options]
        environment = {
            **os.environ,
            "TESSERA_STORE": str(self.folder / "store"),
            "TESSERA_HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        process = subprocess.Popen(command, env=environment)
        try:
            base = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.get(f"{base}/health/ready").raise_for_status()
                    break
                except httpx.TransportError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield base
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("dashboard"))
    random = np.random.default_rng(0)
    catalog = Catalog(
        item_ids=tuple(item_id(number) for number in range(ITEMS)),
        titles=(*(f"Title {number}" for number in range(ITEMS - 1)), NASTY),
        texts=("",) * ITEMS,
        categories=tuple(("Garden", "Kitchen", "Toys")[number % 3 : number % 3 + 1] for number in range(ITEMS)),
        prices=random.uniform(1, 100, ITEMS).astype(np.float32),
        attributes=({},) * ITEMS,
        available=np.ones(ITEMS, dtype=np.bool_),
    )
    for seed, version in enumerate((FIRST, SECOND)):
        place.bundles[version] = build_tiny_bundle(
            place.folder / "store", version=version, catalog=catalog, users=USERS, seed=seed
        )
    for user in range(USERS):
        place.fill(f"user-{user}", [user % 20, user % 7 + 20], [30 + (user + step) % 25 for step in range(20)])
    place.fill(NASTY, [1, ITEMS - 1], [2, 3, 4])
    yield place
    embedded_redis.stop(place.folder / "home")


@pytest.fixture(scope="package")
def server(place: Place) -> Iterator[str]:
    with place.served() as base:
        for user in range(12):
            httpx.get(f"{base}/recommend/user-{user}").raise_for_status()
        httpx.get(f"{base}/recommend/nobody").raise_for_status()
        deadline = time.monotonic() + 20
        while not shows_everything(httpx.get(f"{base}/overview").json()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield base


def shows_everything(overview: dict[str, Any]) -> bool:
    """Whether the counts have reached Redis, the cache was looked at, and the worker is heard of."""
    counted = sum(map(sum, overview["traffic"]["answers"].values()))
    return counted == 13 and overview["cache"] is not None and bool(overview["refresh"]["worker"])


def chromium() -> str:
    named = os.environ.get("TESSERA_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or name one in TESSERA_CHROMIUM")
    return found


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for these tests alone: while it lives, its event loop counts as running in the tests' thread."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and what must not happen on it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, base: str) -> Page:
        self.page.goto(base)
        return self.page


def watched(context: BrowserContext) -> Watched:
    context.set_default_timeout(15_000)
    found = Watched(context.new_page())
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("console", lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None)
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    return found


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """The dashboard, looked at once. Fails the test that leaves an error on the console or asks another host."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        found = watched(context)
        found.open(server)
        ready(found.page)
        yield found.page
        assert found.errors == []
        assert [url for url in found.requests if not url.startswith(f"{server}/")] == []


def ready(page: Page) -> None:
    page.wait_for_selector("#state[data-state=ready]")


def try_user(page: Page, user: str) -> None:
    page.fill("#try-user", user)
    page.click("#try-form button[type=submit]")
    page.wait_for_selector("#answer-items .tile")
