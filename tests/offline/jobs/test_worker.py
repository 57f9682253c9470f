"""`tessera worker` in a process of its own, doing real refreshes of a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from app import embedded_redis
from model_store.bundle import Bundle
from model_store.cache_keys import Keys
from model_store.refresh_jobs import FIELDS, JOB_TTL_S, RefreshJob, RefreshOrder
from tests.cached_entries import cached_users
from tests.tiny_bundle import build_tiny_bundle

ROOT = Path(__file__).parents[3]
KEYS = Keys()
USERS = 40


class Place:
    """A store, a Redis, and workers around them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.bundle: Bundle = build_tiny_bundle(folder / "store", users=USERS)
        self.redis = redis.Redis.from_url(embedded_redis.ensure_running(self.home))
        self.environment = {
            **os.environ,
            "TESSERA_STORE": str(folder / "store"),
            "TESSERA_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
        }

    def ask(self, job_id: str, **order: object) -> None:
        """Queue as the API does."""
        users = order.pop("users", None)
        listed = None if users is None else len(users)  # type: ignore[arg-type]
        described = RefreshOrder(version=self.bundle.version, users=listed, **order)  # type: ignore[arg-type]
        fields = {"order": described.model_dump_json(), "status": "queued", "created_at": time.time()}
        if users is not None:
            fields["users"] = json.dumps(users)
        self.redis.hset(KEYS.refresh_job(job_id), mapping=fields)
        self.redis.lpush(KEYS.refresh_jobs, job_id)

    def job(self, job_id: str) -> RefreshJob:
        job = RefreshJob.read(job_id, self.redis.hmget(KEYS.refresh_job(job_id), FIELDS))
        assert job is not None
        return job

    def cached(self) -> set[str]:
        return cached_users(self.redis, KEYS, self.bundle.entry_layout)

    @contextmanager
    def worker(self) -> Iterator["subprocess.Popen[bytes]"]:
        with subprocess.Popen([sys.executable, "-m", "tessera", "worker"], env=self.environment) as process:
            try:
                yield process
            finally:
                process.terminate()
                process.wait(20)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    for user in range(USERS):
        place.redis.rpush(KEYS.history(f"user-{user}"), f"item-{user % 7}", f"item-{user % 5 + 10}")
    yield place
    embedded_redis.stop(place.home)


def wait_until(holds: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refreshes() -> set[int]:
    """Process ids of refreshes that workers have started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--until-stdin-closes" in words and b"refresh" in words:
            found.add(int(folder.name))
    return found


def test_jobs_are_done_one_after_another_and_reported_on(place: Place) -> None:
    named = ["user-1", "user-2"]
    place.ask("a" * 16, mode="full", users=named)
    place.ask("b" * 16, mode="stale", budget_users=10)
    place.ask("c" * 16, mode="full")
    with place.worker():
        wait_until(lambda: place.job("a" * 16).status == "done")
        assert place.cached() == set(named)
        wait_until(lambda: place.job("b" * 16).status == "done")
        assert len(place.cached()) == 12
        wait_until(lambda: place.job("c" * 16).status == "done")
    assert len(place.cached()) == USERS
    job = place.job("c" * 16)
    assert (job.users_done, job.users_total, job.error, job.starts) == (USERS, USERS, None, 1)
    assert job.started_at is not None
    assert job.ended_at is not None
    assert job.created_at < job.started_at < job.ended_at
    assert job.users_per_second is not None
    assert job.users_per_second > 0
    first = place.job("a" * 16)
    assert first.ended_at is not None
    assert first.ended_at < job.started_at
    assert 0 < place.redis.ttl(KEYS.refresh_job("c" * 16)) <= JOB_TTL_S
    # Filling is not serving.
    assert place.redis.get(KEYS.active) is None
    # A worker that has ended says so at once.
    assert place.redis.exists(KEYS.refresh_worker) == 0


def test_cancelled_while_it_runs_and_before_it_begins(place: Place) -> None:
    before = refreshes()
    place.ask("a" * 16, mode="full")
    place.ask("b" * 16, mode="full")
    place.redis.hset(KEYS.refresh_job("b" * 16), "cancel", "1")
    with place.worker():
        wait_until(lambda: refreshes() - before)
        place.redis.hset(KEYS.refresh_job("a" * 16), "cancel", "1")
        wait_until(lambda: place.job("a" * 16).status == "cancelled", within_s=15)
        wait_until(lambda: place.job("b" * 16).ended_at is not None, within_s=15)
        assert refreshes() - before == set()
    assert place.job("b" * 16).starts == 0
    assert place.job("a" * 16).ended_at is not None


def test_what_went_wrong_is_told(place: Place) -> None:
    (place.bundle.path / "llm" / "model.safetensors").write_bytes(b"nothing")
    place.ask("a" * 16, mode="stale")
    with place.worker():
        wait_until(lambda: place.job("a" * 16).status == "failed")
    assert "model.safetensors: 7 bytes" in str(place.job("a" * 16).error)


def test_after_a_killed_worker_the_next_one_goes_on_where_it_can(place: Place) -> None:
    before = refreshes()
    place.ask("a" * 16, mode="full")
    with place.worker() as first:
        wait_until(lambda: refreshes() - before)
        first.send_signal(signal.SIGKILL)
        first.wait(5)
        # Its refresh ends with it.
        wait_until(lambda: refreshes() == before, within_s=20)
    assert place.job("a" * 16).status == "running"
    place.ask("b" * 16, mode="stale")
    place.redis.hset(KEYS.refresh_job("b" * 16), "status", "running")
    assert 0 < place.redis.ttl(KEYS.refresh_worker) <= 15
    # As its expiry would.
    place.redis.delete(KEYS.refresh_worker)
    with place.worker():
        wait_until(lambda: place.job("b" * 16).status == "failed", within_s=15)
        assert place.job("b" * 16).error == "worker lost"
        wait_until(lambda: place.job("a" * 16).status == "done")
    assert place.job("a" * 16).starts == 2
    assert len(place.cached()) == USERS


def test_a_worker_that_is_told_to_end_puts_its_job_back(place: Place) -> None:
    before = refreshes()
    place.ask("a" * 16, mode="full")
    with place.worker():
        wait_until(lambda: refreshes() - before)
    assert place.job("a" * 16).status == "queued"
    assert refreshes() == before


def test_a_second_worker_stands_by(place: Place) -> None:
    with place.worker():
        wait_until(lambda: place.redis.exists(KEYS.refresh_worker))
        holder = place.redis.get(KEYS.refresh_worker)
        with place.worker():
            time.sleep(2)
            assert place.redis.get(KEYS.refresh_worker) == holder


def test_the_worker_loads_no_model_library() -> None:
    code = (
        "import command_line.worker, offline.jobs.worker, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"torch", "transformers", "vllm", "faiss", "pandas", "numpy"} & set(said.split()) == set()
