"""The worker that `tessera serve` starts."""

import os
import signal
import time
from collections.abc import Callable

import redis

from app.settings import Settings
from app.worker_child import worker_child
from model_store.cache_keys import Keys


def wait_until(holds: Callable[[], object], within_s: float = 40.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_is_heard_of_started_again_and_gone_at_the_end(settings: Settings, stored: redis.Redis) -> None:
    key = Keys().refresh_worker
    child = worker_child(settings)
    child.start()
    try:
        wait_until(lambda: stored.exists(key))
        assert 0 < stored.ttl(key) <= 15
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: child.pid not in (None, first))
        # As its expiry would.
        stored.delete(key)
        wait_until(lambda: stored.exists(key))
    finally:
        child.stop()
    assert child.pid is None
    assert not stored.exists(key)
