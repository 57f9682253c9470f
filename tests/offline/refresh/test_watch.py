"""The loop that keeps the cache fresh, in this process: what it refreshes, follows and measures."""

import time
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from prometheus_client import generate_latest

from model_store.bundle import ModelStore
from model_store.decoders.torch_decoder import TorchDecoder
from offline.refresh.followed_version import FollowedVersion
from offline.refresh.metrics import WatchMetrics
from offline.refresh.priority import PriorityRule
from offline.refresh.served_share import fresh_share
from offline.refresh.watch import Watch, WatchConfig
from offline.refresh.watch_lock import WatchLock
from tests.cached_entries import cached_users, packed_entry, put_packed
from tests.extended_bundle import extend
from tests.offline.refresh.conftest import CONFIG, KEYS
from tests.tiny_bundle import build_tiny_bundle

RULE = PriorityRule(86_400, need=5)


class Watcher:
    """A watcher, what it counts, and a thread to run it in."""

    def __init__(self, redis, bundle, *, interval_s=0.1, scan_every_s=0.3, target=0.95, expiry_s=2.0):
        self.stop, self.metrics = Event(), WatchMetrics(target)
        self.version = FollowedVersion(
            redis, KEYS, ModelStore(bundle.path.parent), lambda one: TorchDecoder.from_bundle(one, device="cpu"), CONFIG
        )
        self.version.start()
        self.watch = Watch(
            redis,
            KEYS,
            self.version,
            WatchLock(redis, KEYS, expiry_s),
            rule=RULE,
            refresh_config=CONFIG,
            config=WatchConfig(target=target, interval_s=interval_s, scan_every_s=scan_every_s),
            metrics=self.metrics,
        )
        self.thread = Thread(target=self.watch.run, args=(self.stop,))

    def value(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)

    def end(self):
        """Stop it; once is enough."""
        self.stop.set()
        self.thread.join(timeout=20)
        self.version.close()
        assert not self.thread.is_alive()


@contextmanager
def watching(redis, bundle, **settings):
    watcher = Watcher(redis, bundle, **settings)
    watcher.thread.start()
    try:
        yield watcher
    finally:
        watcher.end()


def wait_until(holds, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_a_user_with_news_is_refreshed_and_no_longer_dirty(redis, refresh, bundle, dataset, users):
    refresh(users)
    before = refresh.packed(users[0])
    redis.rpush(KEYS.history(users[0]), *dataset.catalog.item_ids[:3])
    redis.zadd(KEYS.dirty, {users[0]: time.time() - 30})
    with watching(redis, bundle) as watcher:
        wait_until(lambda: not redis.exists(KEYS.dirty))
        assert refresh.packed(users[0]) != before
        wait_until(lambda: watcher.value("tessera_refresh_oldest_dirty_seconds") == 0)
        assert watcher.value("tessera_refresh_users_total", reason="news") == 1
        assert watcher.value("tessera_refresh_waiting_users") == 0


def test_a_user_without_an_entry_is_refreshed_when_traffic_asks_for_one(redis, bundle, users):
    with watching(redis, bundle):
        redis.zadd(KEYS.demand, {users[0]: 1.0})
        wait_until(lambda: not redis.exists(KEYS.demand))
        assert cached_users(redis, KEYS, bundle.entry_layout) == {users[0]}


def test_old_entries_are_found_by_the_scan(redis, refresh, bundle, users):
    refresh(users)
    old = bytearray(refresh.packed(users[0]))
    old[4:8] = (1_000_000_000).to_bytes(4, "little")
    with watching(redis, bundle) as watcher:
        put_packed(redis, KEYS, bundle.entry_layout, users[0], bytes(old))
        wait_until(lambda: refresh.entry(users[0]).decoded_at > 1_000_000_000)
        wait_until(lambda: watcher.value("tessera_refresh_users_total", reason="age") == 1)


def test_the_loop_follows_a_switch_of_version_and_outlives_one_that_cannot_be_opened(
    redis, refresh, bundle, tmp_path, users
):
    refresh(users)
    gone = sorted(bundle.item_codes.items_of(refresh.entry(users[0]).codes_KL).tolist())[:2]
    with watching(redis, bundle) as watcher:
        wait_until(lambda: watcher.value("tessera_refresh_round_seconds_count") > 0)
        redis.set(KEYS.active, "not-there")
        wait_until(lambda: watcher.value("tessera_refresh_errors_total", kind="version") == 1)
        redis.zadd(KEYS.dirty, {users[1]: time.time()})
        wait_until(lambda: not redis.exists(KEYS.dirty))
        extended = extend(bundle.path.parent, bundle, hidden=gone)
        redis.set(KEYS.active, extended.version)
        wait_until(lambda: watcher.value("tessera_refresh_users_total", reason="short"))
        wait_until(lambda: not set(bundle.item_codes.items_of(refresh.entry(users[0]).codes_KL).tolist()) & set(gone))


def test_another_version_gets_entries_of_its_own(redis, refresh, bundle, dataset, users):
    other = build_tiny_bundle(bundle.path.parent, version="tiny-2", catalog=dataset.catalog, seed=1, activate=False)
    with watching(redis, bundle) as watcher:
        redis.set(KEYS.active, "tiny-2")
        wait_until(lambda: watcher.version.open.bundle.version == "tiny-2")
        redis.zadd(KEYS.demand, {users[0]: 1.0})
        wait_until(lambda: packed_entry(redis, KEYS, other.entry_layout, users[0]) is not None)
        assert refresh.packed(users[0]) is None


def test_the_share_is_that_of_the_last_five_minutes(redis):
    now = 1_800_000_030.0
    minute = int(now) // 60
    assert fresh_share(redis, KEYS, now) is None
    redis.hset(KEYS.served(minute), mapping={"fresh": 30, "all": 40})
    redis.hset(KEYS.served(minute - 4), mapping={"fresh": 10, "all": 10})
    redis.hset(KEYS.served(minute - 5), mapping={"fresh": 0, "all": 1000})
    redis.hset(KEYS.served(minute - 2), mapping={"all": 30})
    assert fresh_share(redis, KEYS, now) == 0.5


def test_without_traffic_there_is_no_share_and_with_it_the_right_one(redis, bundle):
    with watching(redis, bundle) as watcher:
        wait_until(lambda: watcher.value("tessera_refresh_round_seconds_count") > 0)
        share = "tessera_refresh_fresh_share"
        assert f"{share} NaN" in generate_latest(watcher.metrics.registry).decode()
        redis.hset(KEYS.served(int(time.time()) // 60), mapping={"fresh": 3, "all": 4})
        wait_until(lambda: watcher.value(share) == 0.75)
        assert watcher.value("tessera_refresh_target_share") == 0.95


@pytest.mark.parametrize(
    ("fresh", "waiting", "rests"), [(50, 70, False), (95, 70, True), (None, 70, True), (50, 0, True)]
)
def test_it_rests_between_rounds_unless_it_is_below_the_target_and_somebody_waits(
    redis, bundle, users, fresh, waiting, rests
):
    if waiting:
        redis.zadd(KEYS.demand, dict.fromkeys(users[:waiting], 1.0))
    if fresh is not None:
        redis.hset(KEYS.served(int(time.time()) // 60), mapping={"fresh": fresh, "all": 100})
    watcher = Watcher(redis, bundle, interval_s=0.01)
    pause_s = watcher.watch.round(Event())
    watcher.version.close()
    assert redis.zcard(KEYS.demand) == max(waiting - 16, 0), "a first small batch, then the time is over"
    assert pause_s == (0.01 if rests else 0)


def test_of_two_watchers_one_works_and_the_other_takes_over(redis, bundle, users):
    with watching(redis, bundle) as first:
        wait_until(lambda: first.value("tessera_refresh_round_seconds_count") > 0)
        with watching(redis, bundle) as second:
            redis.zadd(KEYS.demand, dict.fromkeys(users, 1.0))
            wait_until(lambda: not redis.exists(KEYS.demand))
            wait_until(lambda: first.value("tessera_refresh_users_total", reason="no_entry") == 70)
            assert second.value("tessera_refresh_round_seconds_count") == 0
            first.end()
            redis.zadd(KEYS.demand, {users[0]: 1.0})
            wait_until(lambda: second.value("tessera_refresh_users_total", reason="demand") == 1)


def test_a_lock_that_expired_is_taken_by_the_next_and_not_released_by_the_one_before(redis):
    first, second = WatchLock(redis, KEYS, 0.1), WatchLock(redis, KEYS, 10)
    assert first.hold()
    assert first.hold()
    assert not second.hold()
    time.sleep(0.2)
    assert second.hold()
    assert not first.hold()
    first.release()
    assert redis.exists(KEYS.watch)
    second.release()
    assert not redis.exists(KEYS.watch)
