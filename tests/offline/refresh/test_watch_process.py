"""`tessera refresh --watch` as a process: its metrics, its end, and a Redis that is killed under it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from app.embedded_redis import ensure_running, stop
from offline.redis_connection import connect
from tests.app.test_server import free_port
from tests.cached_entries import cached_users
from tests.offline.refresh.conftest import KEYS

_START_S = 60
_EXIT_S = 30


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def redis(home):
    yield connect(ensure_running(home))
    stop(home)


@pytest.fixture
def environment(home, bundle):
    ours = {"TESSERA_HOME": str(home), "TESSERA_STORE": str(bundle.path.parent), "TESSERA_NAMESPACE": KEYS.namespace}
    return os.environ | ours | {"OMP_NUM_THREADS": "1"}


@contextmanager
def watch(environment, *words):
    arguments = [sys.executable, "-m", "tessera", "refresh", "--watch", "--k", "5", "--beam", "10", *words]
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def metrics_of(port):
    """The samples by name and labels, as the text has them; none while nobody answers."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.TransportError:
        return {}
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def wait_until(holds, process, timeout_s=_START_S):
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def test_metrics_are_served_and_redis_may_be_killed_and_come_back(redis, home, bundle, users, environment):
    port, now = free_port(), time.time()
    redis.hset(KEYS.served(int(now) // 60), mapping={"fresh": 9, "all": 12})
    redis.zadd(KEYS.dirty, {users[0]: now - 100})
    with watch(environment, "--interval", "0.3", "--metrics-port", str(port)) as process:
        wait_until(lambda: metrics_of(port).get('tessera_refresh_users_total{reason="no_entry"}') == 1, process)
        found = metrics_of(port)
        assert found["tessera_refresh_fresh_share"] == 0.75
        assert found["tessera_refresh_target_share"] == 0.95
        assert found["tessera_refresh_waiting_users"] == 0
        assert found["tessera_refresh_oldest_dirty_seconds"] in (0, pytest.approx(100, abs=60))
        assert found["tessera_refresh_round_seconds_count"] > 0

        os.kill(int((home / "redis" / "redis.pid").read_text()), signal.SIGKILL)
        wait_until(lambda: metrics_of(port).get('tessera_refresh_errors_total{kind="redis"}', 0) >= 1, process)
        (home / "redis" / "redis.pid").unlink(missing_ok=True)
        ensure_running(home)
        redis.zadd(KEYS.dirty, {users[1]: time.time()})
        wait_until(lambda: not redis.exists(KEYS.dirty), process)
        assert cached_users(redis, KEYS, bundle.entry_layout) == set(users[:2])

        process.send_signal(signal.SIGINT)
        out, log = process.communicate(timeout=_EXIT_S)
    assert (process.returncode, out) == (0, "")
    rounds = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {"round", "round given up"} <= {line["message"] for line in rounds}
    assert users[0] not in log
    assert str(home) not in log


def test_sigterm_ends_the_watch_behind_the_batch_under_way(redis, bundle, users, environment):
    redis.zadd(KEYS.demand, dict.fromkeys(users, 1.0))
    with watch(environment, "--interval", "60") as process:
        wait_until(lambda: cached_users(redis, KEYS, bundle.entry_layout), process)
        process.terminate()
        process.communicate(timeout=_EXIT_S)
    assert process.returncode == 0
    assert len(cached_users(redis, KEYS, bundle.entry_layout)) == 70 - redis.zcard(KEYS.demand)
    assert not redis.exists(KEYS.watch), "the next watcher need not wait"
