"""Refreshes asked for over HTTP, as the API sees them; who does them is tested with the worker."""

import httpx
import orjson
import pytest
import redis

from app.settings import Settings
from model_store.cache_keys import Keys
from model_store.refresh_jobs import JOB_TTL_S, MAX_QUEUED
from tests.app.conftest import running
from tests.app.test_access import ADMIN, BOTH, CONFIGURED
from tests.app.test_problems import assert_problem

pytestmark = pytest.mark.anyio
KEYS = Keys()


@pytest.fixture
def worker(stored: redis.Redis) -> None:
    """A worker that was heard of a moment ago."""
    stored.set(KEYS.refresh_worker, "somebody", ex=60)


async def test_without_a_worker_nothing_is_queued(client: httpx.AsyncClient, stored: redis.Redis) -> None:
    answer = await client.post("/refresh", json={"mode": "stale"})
    assert_problem(answer, 503, "no-refresh-worker")
    assert "tessera worker" in answer.json()["detail"]
    assert stored.exists(KEYS.refresh_jobs) == 0
    assert (await client.get("/refresh")).json() == {"worker": False, "jobs": []}


@pytest.mark.usefixtures("worker")
async def test_a_refresh_waits_in_redis_for_a_worker(client: httpx.AsyncClient, stored: redis.Redis) -> None:
    answer = await client.post("/refresh", json={"mode": "full", "users": ["ann", "bob", "ann"]})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["status"], job["mode"], job["version"], job["users"]) == ("queued", "full", "light-1", 2)
    assert (await client.get(f"/refresh/{job['id']}")).json() == job
    assert (await client.get("/refresh")).json() == {"worker": True, "jobs": [job]}
    key = KEYS.refresh_job(job["id"])
    assert orjson.loads(stored.hget(key, "users")) == ["ann", "bob"]
    assert 0 < stored.ttl(key) <= JOB_TTL_S
    assert 0 < stored.ttl(KEYS.refresh_jobs) <= JOB_TTL_S


@pytest.mark.usefixtures("worker")
async def test_a_waiting_refresh_is_cancelled_at_once(client: httpx.AsyncClient) -> None:
    job = (await client.post("/refresh", json={"mode": "stale", "budget_users": 5, "budget_s": 1.5})).json()
    assert (job["budget_users"], job["budget_s"]) == (5, 1.5)
    assert (await client.delete(f"/refresh/{job['id']}")).json()["status"] == "cancelled"
    assert (await client.delete(f"/refresh/{job['id']}")).json()["status"] == "cancelled"


@pytest.mark.usefixtures("worker")
async def test_the_queue_is_bounded(client: httpx.AsyncClient, stored: redis.Redis) -> None:
    jobs = [(await client.post("/refresh", json={"mode": "stale"})).json() for _ in range(MAX_QUEUED)]
    refused = await client.post("/refresh", json={"mode": "stale"})
    assert_problem(refused, 429, "refresh-queue-full")
    assert refused.headers["retry-after"]
    assert stored.llen(KEYS.refresh_jobs) == MAX_QUEUED
    await client.delete(f"/refresh/{jobs[0]['id']}")
    assert (await client.post("/refresh", json={"mode": "stale"})).status_code == 202


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"mode": "all"},
        {"mode": "full", "budget_users": 3},
        {"mode": "full", "budget_s": 3},
        {"mode": "stale", "users": ["ann"]},
        {"mode": "stale", "budget_users": 0},
        {"mode": "stale", "budget_s": 0},
        {"mode": "full", "users": []},
        {"mode": "full", "users": ["u"] * 1001},
        {"mode": "full", "users": ["a\nb"]},
        {"mode": "full", "engine": "vllm"},
    ],
)
async def test_what_makes_no_sense_is_not_queued(
    client: httpx.AsyncClient, stored: redis.Redis, body: dict[str, object]
) -> None:
    assert_problem(await client.post("/refresh", json=body), 422, "invalid-request")
    assert stored.exists(KEYS.refresh_jobs) == 0


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("version", ["nothing", "../light-1"])
async def test_a_version_that_is_not_there(client: httpx.AsyncClient, version: str) -> None:
    answer = await client.post("/refresh", json={"mode": "full", "version": version})
    assert_problem(answer, 404, "model-not-found")


async def test_an_id_that_is_not_there(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get(f"/refresh/{'0' * 16}"), 404, "refresh-not-found")
    assert_problem(await client.delete(f"/refresh/{'0' * 16}"), 404, "refresh-not-found")
    assert_problem(await client.get("/refresh/one"), 422, "invalid-request")


async def test_without_redis(client: httpx.AsyncClient, stored: redis.Redis) -> None:
    stored.shutdown()
    assert_problem(await client.get("/refresh"), 503, "storage-unavailable")
    assert_problem(await client.post("/refresh", json={"mode": "stale"}), 503, "storage-unavailable")


async def test_only_an_admin_may(settings: Settings, stored: redis.Redis) -> None:
    async with running(settings.model_copy(update={"api_keys": CONFIGURED})) as app:
        for method, path in (
            ("GET", "/refresh"),
            ("POST", "/refresh"),
            ("GET", f"/refresh/{'0' * 16}"),
            ("DELETE", f"/refresh/{'0' * 16}"),
            ("POST", "/models/rollback"),
            ("POST", "/models/light-1/activate"),
        ):
            for key, status in (("wrong" * 5, 401), (BOTH, 403)):
                answer = await app.client.request(method, path, headers={"X-API-Key": key}, json={"mode": "stale"})
                assert answer.status_code == status, path
        assert (await app.client.get("/refresh", headers={"X-API-Key": ADMIN})).status_code == 200
