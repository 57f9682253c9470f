"""Versions of two recipes on one running service: the second is filled, activated, compared and taken back.

Nothing that serves knows which recipe made a version; the same trie, decoders, cache and API serve both.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from app import embedded_redis
from model_store.bundle import ModelStore
from model_store.cache_keys import Keys
from offline.generate_catalogue import generate
from offline.interactions import Dataset, read_dataset
from offline.redis_connection import connect
from tests.cached_entries import drop_entries

pytestmark = pytest.mark.end_to_end

PORT = 18_437
QUICK = (
    "max_history=8",
    "language_model.llm=scratch:tiny",
    "language_model.text_vocabulary=300",
    "text.max_tokens=8",
    "collaborative.epochs=2",
    "teacher.epochs=2",
    "joint.epochs=2",
    "training.epochs=2",
    "training.validate_every=2",
    "training.validation_users=20",
)


class Shop:
    """A generated shop, and the command line on it."""

    def __init__(self, root: Path) -> None:
        self.data, self.home = root / "data", root / "home"
        self.store = ModelStore(root / "store")
        generate(self.data, users=80, items=80, seed=1)
        self.dataset: Dataset = read_dataset(self.data)
        self.environment = os.environ | {
            "TESSERA_HOME": str(self.home),
            "TESSERA_STORE": str(root / "store"),
            "TESSERA_LIVE_DEADLINE_MS": "20000",
            "TESSERA_DECODER_ENGINE": "torch",
        }

    def done(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "tessera", *arguments]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def redis(self) -> Redis:
        return connect(embedded_redis.ensure_running(self.home))

    def train(self, recipe: str) -> str:
        sets = [argument for setting in QUICK for argument in ("--set", setting)]
        return self.done("train", "--data", str(self.data), "--recipe", recipe, *sets).split()[-1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("two-recipes"))
    yield shop
    embedded_redis.stop(shop.home)


@pytest.fixture(scope="module")
def versions(shop: Shop) -> tuple[str, str]:
    return shop.train("semantic-convergence"), shop.train("eager-llm")


@pytest.fixture(scope="module")
def client(shop: Shop, versions: tuple[str, str]) -> Iterator[httpx.Client]:
    first, _ = versions
    shop.done("models", "activate", first)
    shop.done("refresh", "--data", str(shop.data), "--beam", "20")
    log = shop.home / "server.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "tessera", "serve", "--port", str(PORT)], env=shop.environment, stderr=stderr
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=30) as client,
    ):
        try:
            until(lambda: decoder_is_ready(client), 120, log.read_text)
            yield client
        finally:
            process.terminate()


def until(holds: Callable[[], bool], seconds: float, otherwise: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.1)


def decoder_is_ready(client: httpx.Client) -> bool:
    try:
        return bool(client.get("/health/ready").json()["dependencies"]["decoder"]["ok"])
    except httpx.HTTPError:
        return False


def answer(client: httpx.Client, user: str) -> dict:
    response = client.get(f"/recommend/{user}", params={"n": 5})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_version_of_another_recipe_is_filled_activated_compared_and_taken_back(
    shop: Shop, versions: tuple[str, str], client: httpx.Client
) -> None:
    first, second = versions
    users = shop.dataset.user_ids
    assert [shop.store.manifest(version).recipe for version in versions] == ["semantic-convergence", "eager-llm"]
    before = {user: answer(client, user) for user in users}
    assert {(one["source"], one["model_version"]) for one in before.values()} == {("cache", first)}

    shop.done("refresh", "--version", second, "--shadow", "--beam", "20")
    assert answer(client, users[0])["model_version"] == first, "a version that is being filled is not served"
    found = json.loads(shop.done("models", "compare", first, second, "--json"))
    assert found["users"] == [len(users)] * 2
    assert 0 < found["overlap_at_10"] < 1

    shop.done("models", "activate", second)
    until(lambda: answer(client, users[0])["model_version"] == second, 10, lambda: "not followed")
    after = {user: answer(client, user) for user in users}
    assert {(one["source"], one["model_version"]) for one in after.values()} == {("cache", second)}
    assert all(len(one["items"]) == 5 for one in after.values())
    assert any(items(after[user]) != items(before[user]) for user in users)
    drop_entries(shop.redis(), Keys(), shop.store.manifest(second).entry_layout, [users[0]])
    live = answer(client, users[0])
    assert (live["source"], live["model_version"]) == ("live", second)
    assert items(live) == items(after[users[0]]), "the same trie, whoever decodes"

    shop.done("models", "rollback")
    until(lambda: answer(client, users[0])["model_version"] == first, 10, lambda: "not taken back")
    assert {user: items(answer(client, user)) for user in users} == {user: items(one) for user, one in before.items()}


def items(answered: dict) -> list[str]:
    return [one["item_id"] for one in answered["items"]]
