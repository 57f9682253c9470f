"""The whole path as a user walks it: the command line, a real Redis, the real vLLM, real HTTP.

One small generated catalogue is trained, published, evaluated, refreshed and served; then parts are taken away, one
after the other.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app import embedded_redis
from model_store.bundle import ModelStore
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import Keys
from offline.generate_catalogue import generate
from offline.interactions import Dataset, read_dataset
from offline.redis_connection import connect
from tests.cached_entries import drop_entries, packed_entry

pytestmark = pytest.mark.end_to_end

USERS = 200
QUICK = ["collaborative.epochs=4", "training.epochs=4", "training.validate_every=2", "training.validation_users=50"]
VERSION_ENV = {"TESSERA_LIVE_DEADLINE_MS": "20000"}


class Shop:
    """A folder of data, a home, a store, and the command line that works on them."""

    def __init__(self, root: Path) -> None:
        self.data, self.home, self.store = root / "data", root / "home", root / "store"
        generate(self.data, users=USERS, items=80, seed=1)
        self.dataset: Dataset = read_dataset(self.data)
        self.environment = (
            os.environ
            | VERSION_ENV
            | {
                "TESSERA_HOME": str(self.home),
                "TESSERA_STORE": str(self.store),
                "VLLM_CPU_KVCACHE_SPACE": "1",
            }
        )

    def tessera(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tessera", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def done(self, *arguments: str) -> str:
        result = self.tessera(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def layout(self, version):
        return ModelStore(self.store).manifest(version).entry_layout

    def entry(self, version, user):
        return CacheEntry.unpack(packed_entry(self.redis(), Keys(), self.layout(version), user))

    def redis(self):
        return connect(embedded_redis.ensure_running(self.home))


class Server:
    """`tessera serve` with a decoder at an address of our own, so that the test can stop it."""

    def __init__(self, process: subprocess.Popen, decoder: subprocess.Popen, client: httpx.Client) -> None:
        self.process, self.decoder, self.client = process, decoder, client

    def recommend(self, user: str, **query: object) -> dict:
        response = self.client.get(f"/recommend/{user}", params=query)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    yield shop
    embedded_redis.stop(shop.home)


@pytest.fixture(scope="module")
def version(shop: Shop) -> str:
    sets = [argument for setting in QUICK for argument in ("--set", setting)]
    return shop.done("train", "--data", str(shop.data), "--recipe", "demo", *sets).strip().splitlines()[-1]


@pytest.fixture(scope="module")
def refreshed(shop: Shop, version: str) -> dict:
    return json.loads(shop.done("refresh", "--data", str(shop.data), "--json"))


@pytest.fixture(scope="module")
def server(shop: Shop, refreshed: dict) -> Iterator[Server]:
    address = f"unix://{shop.home / 'test-decoder.sock'}"
    command = [sys.executable, "-m", "tessera"]
    log = (shop.home / "server.log").open("wb")
    with (
        subprocess.Popen(
            [*command, "decoder", "--address", address, "--engine", "vllm"], env=shop.environment, stderr=log
        ) as decoder,
        subprocess.Popen(
            [*command, "serve", "--port", "18431", "--decoder", address], env=shop.environment, stderr=log
        ) as process,
        httpx.Client(base_url="http://127.0.0.1:18431", timeout=60) as client,
    ):
        try:
            until(lambda: ready(client, "decoder"), 240, shop.home / "server.log")
            yield Server(process, decoder, client)
        finally:
            for running in (process, decoder):
                running.terminate()


def until(holds, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.2)


def ready(client: httpx.Client, dependency: str) -> bool:
    try:
        return bool(client.get("/health/ready").json()["dependencies"][dependency]["ok"])
    except httpx.HTTPError:
        return False


def unseen_and_valid(shop: Shop, user: str, answer: dict) -> bool:
    index = shop.dataset.user_ids.index(user)
    seen = {shop.dataset.catalog.item_ids[item] for item in shop.dataset.history(index)}
    items = [row["item_id"] for row in answer["items"]]
    return (
        len(set(items)) == len(items) > 0 and not set(items) & seen and set(items) <= set(shop.dataset.catalog.item_ids)
    )


def test_training_publishes_a_version_that_verifies_and_is_active(shop, version):
    store = ModelStore(shop.store)
    assert store.versions() == [version]
    assert store.open().version == version
    assert shop.done("models", "list").strip() == f"* {version}"


def test_evaluate_prints_one_object_with_every_system_protocol_and_metric(shop, version):
    result = json.loads(shop.done("evaluate", "--data", str(shop.data), "--json"))
    assert (result["version"], result["split"], result["users"]) == (version, "test", USERS)
    for protocol in ("all", "unseen"):
        assert set(result["protocols"][protocol]) == {"tessera", "sasrec", "popular"}
        for metrics in result["protocols"][protocol].values():
            assert {f"{m}@{k}" for m in ("recall", "ndcg") for k in (5, 10, 20)} == set(metrics)
            assert all(0 <= value <= 1 for value in metrics.values())


def test_refresh_reports_what_it_did(refreshed, version):
    assert set(refreshed) >= {"version", "users", "k", "seconds", "users_per_second", "skipped"}
    assert refreshed["coverage"] == 1
    assert (refreshed["version"], refreshed["users"], refreshed["k"]) == (version, USERS, 20)


def test_versions_can_be_shown_verified_and_activated_by_command(shop, refreshed, version):
    assert json.loads(shop.done("models", "show"))["version"] == version
    assert "all as published" in shop.done("models", "verify")
    assert shop.done("models", "activate", version).strip() == version
    assert shop.redis().get(Keys().active).decode() == version


def test_a_refresh_of_some_users_writes_theirs_and_switches_nothing(shop, refreshed, version, tmp_path):
    users = shop.dataset.user_ids[:3]
    (tmp_path / "users").write_text("\n".join(users))
    drop_entries(shop.redis(), Keys(), shop.layout(version), users)
    result = json.loads(shop.done("refresh", "--users", str(tmp_path / "users"), "--json"))
    assert result["users"] == 3
    assert json.loads(shop.done("refresh", "--stale", "--json"))["users"] == 0


def test_vllm_refreshes_with_the_lists_that_torch_found(shop, refreshed, version, tmp_path):
    users = shop.dataset.user_ids[:20]
    (tmp_path / "users").write_text("\n".join(users))
    by_torch = [shop.entry(version, user) for user in users]
    shop.done("refresh", "--users", str(tmp_path / "users"), "--engine", "vllm")
    by_vllm = [shop.entry(version, user) for user in users]
    for theirs, ours in zip(by_torch, by_vllm, strict=True):
        assert (theirs.generator, ours.generator) == ("torch", "vllm")
        # Scores are kept in two bytes, and rounding may go either way.
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=2e-3)
        assert (ours.codes_KL[:5] == theirs.codes_KL[:5]).all()


def test_every_user_is_answered_from_the_cache(shop, server):
    for user in shop.dataset.user_ids:
        answer = server.recommend(user)
        assert (answer["source"], answer["degraded"], len(answer["items"])) == ("cache", False, 10)
        assert unseen_and_valid(shop, user, answer)


def test_a_user_without_an_entry_is_decoded_live_by_vllm_and_cached(shop, server, version):
    user = shop.dataset.user_ids[0]
    before = server.recommend(user)
    drop_entries(shop.redis(), Keys(), shop.layout(version), [user])
    live = server.recommend(user)
    assert (live["source"], live["degraded"]) == ("live", False)
    assert unseen_and_valid(shop, user, live)
    # The cache was filled by torch: two engines, one list.
    assert [row["item_id"] for row in live["items"][:5]] == [row["item_id"] for row in before["items"][:5]]
    until(lambda: packed_entry(shop.redis(), Keys(), shop.layout(version), user), 10, shop.home / "server.log")
    assert server.recommend(user)["source"] == "cache"


def test_an_event_is_excluded_from_the_very_next_answer(shop, server):
    user = shop.dataset.user_ids[1]
    item = server.recommend(user)["items"][0]["item_id"]
    response = server.client.post("/events", json=[{"user_id": user, "item_id": item, "type": "purchase"}])
    assert response.status_code in (200, 202), response.text
    assert item not in [row["item_id"] for row in server.recommend(user)["items"]]


def test_an_anonymous_session_is_decoded_live(shop, server):
    history = list(shop.dataset.catalog.item_ids[:3])
    response = server.client.post("/recommend", json={"history": history, "n": 5})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["source"] == "live"
    assert not set(history) & {row["item_id"] for row in answer["items"]}


def test_without_a_decoder_neighbors_answer_and_without_redis_popular_items_do(shop, server, version):
    """Last on purpose: it takes the parts away."""
    user = shop.dataset.user_ids[2]
    server.decoder.send_signal(signal.SIGKILL)
    server.decoder.wait()
    drop_entries(shop.redis(), Keys(), shop.layout(version), [user])
    answer = server.recommend(user)
    assert (answer["source"], answer["degraded"]) == ("neighbors", True)
    assert unseen_and_valid(shop, user, answer)
    assert server.recommend(shop.dataset.user_ids[3])["source"] == "cache"

    embedded_redis.stop(shop.home)
    for known in shop.dataset.user_ids[:30]:
        answer = server.recommend(known)
        assert (answer["source"], answer["degraded"], len(answer["items"])) == ("popular", True, 10)
    assert server.client.get("/health/live").status_code == 200


def test_a_training_that_is_killed_goes_on_where_it_was(tmp_path):
    shop = Shop(tmp_path)
    sets = [argument for setting in QUICK for argument in ("--set", setting)]
    command = ["train", "--data", str(shop.data), "--recipe", "demo", *sets, "--set", "training.epochs=30"]
    with subprocess.Popen(
        [sys.executable, "-m", "tessera", *command], env=shop.environment, stdout=subprocess.DEVNULL
    ) as process:
        until(lambda: list(shop.home.glob("runs/*/language_model/last.pt")), 120, Path(os.devnull))
        process.kill()
    assert not ModelStore(shop.store).versions()
    result = shop.tessera(*command)
    assert result.returncode == 0, result.stderr
    assert "collaborative encoder" not in result.stderr
    assert "text vectors" not in result.stderr
    assert ModelStore(shop.store).versions() == [result.stdout.strip()]
    assert not list(shop.home.glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "no-such-folder"], "no-such-folder"),
        (["train", "--data", ".", "--recipe", "unheard-of"], "semantic-convergence"),
        (["evaluate", "--data", "no-such-folder", "--version", "no-such-version"], "no-such-version"),
        (["refresh", "--ray", "auto"], "TESSERA_REDIS_URL"),
        (["models", "rollback"], "no earlier version"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(shop, version, arguments, message):
    result = shop.tessera(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_wrong_usage_is_exit_code_2(shop):
    assert shop.tessera("train").returncode == 2
    assert shop.tessera("evaluate", "--data", ".", "--split", "train").returncode == 2
