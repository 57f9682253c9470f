"""The statistics agree with what was written, and looking changes nothing."""

import time

import pytest

from app.embedded_redis import ensure_running, stop
from model_store.bundle import ModelStore
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import COMPACT_ENTRY_BYTES, COMPACT_USERS
from offline.redis_connection import connect
from offline.refresh.cache_stats import cache_stats
from offline.refresh.redis_stats import redis_stats
from offline.refresh.registered_caches import registered_caches
from tests.cached_entries import drop_entries, put_packed
from tests.extended_bundle import extend
from tests.offline.refresh.conftest import CONFIG, KEYS, DiesAt


@pytest.fixture
def store(bundle):
    return ModelStore(bundle.path.parent)


@pytest.fixture
def look(redis, store):
    """The statistics of every registered cache, by its version."""
    return lambda: {
        cache.layout.cache_version: cache_stats(redis, KEYS, cache) for cache in registered_caches(redis, KEYS, store)
    }


def test_users_bytes_and_ages_are_those_of_what_was_written(redis, refresh, bundle, users, look):
    refresh(users)
    found = look()[bundle.version]
    layout = bundle.entry_layout
    buckets = {KEYS.bucket_of(layout, user) for user in users}
    assert (found.users, found.buckets, found.active) == (len(users), layout.buckets, True)
    assert found.users_of_fullest_bucket == max(redis.hlen(bucket) for bucket in buckets)
    sample = found.sample
    in_memory = sum(redis.memory_usage(bucket, samples=0) for bucket in buckets)
    assert sample.users == len(users)
    assert sample.bytes_per_user == pytest.approx(in_memory / len(users), abs=0.1)
    assert found.megabytes == pytest.approx(in_memory / 1e6, abs=0.01)
    assert 0 <= sample.youngest_s <= sample.median_s <= sample.oldest_s < 60
    assert CONFIG.entry_ttl_s - 60 < sample.expires_in_s <= CONFIG.entry_ttl_s
    assert (sample.unreadable, sample.compact) == (0, 1)
    assert sample.longest_entry == len(refresh.packed(users[0]))


def test_old_and_unreadable_entries_are_told(redis, refresh, bundle, users, look):
    refresh(users)
    old = refresh.entry(users[0])
    put_packed(
        redis,
        KEYS,
        bundle.entry_layout,
        users[0],
        CacheEntry(old.codes_KL, old.scores, old.history_digest, int(time.time()) - 5000, "torch").pack(),
    )
    put_packed(redis, KEYS, bundle.entry_layout, users[1], b"\x09nonsense")
    sample = look()[bundle.version].sample
    assert 5000 <= sample.oldest_s < 5060
    assert sample.median_s < 60
    assert sample.unreadable == pytest.approx(1 / len(users), abs=1e-4)


def test_an_extension_makes_the_cache_of_its_base_the_active_one(redis, refresh, bundle, users, look):
    extension = extend(bundle.path.parent, bundle)
    refresh(users)
    redis.set(KEYS.active, extension.version)
    found = look()[bundle.version]
    assert found.active
    assert {bundle.version, extension.version} <= set(found.versions)
    redis.set(KEYS.active, f"{bundle.version}+99")
    assert look()[bundle.version].active, "of a version published elsewhere the name tells"
    redis.set(KEYS.active, "other")
    assert not look()[bundle.version].active


def test_a_bucket_without_an_expiry_is_told(redis, refresh, bundle, users, look):
    refresh(users)
    redis.persist(KEYS.bucket_of(bundle.entry_layout, users[0]))
    assert look()[bundle.version].sample.expires_in_s is None


def test_a_stopped_refresh_is_told_with_how_far_it_came(redis, refresh, bundle, decoder, users, look):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, decoder=DiesAt(decoder, 2))
    (stopped,) = look()[bundle.version].refreshes
    assert (stopped.version, stopped.partial) == (bundle.version, False)
    assert stopped.shards_done == redis.hlen(KEYS.refresh_ledger(bundle.version)) - 1
    assert stopped.shards_done < stopped.shards_at_most
    assert 0 < stopped.entries_written <= look()[bundle.version].users


def test_the_ledger_of_another_tessera_still_counts_its_shards(redis, refresh, bundle, users, look):
    refresh(users[:1], partial=True)
    redis.delete(KEYS.refresh_ledger(bundle.version, partial=True))
    redis.hset(KEYS.refresh_ledger(bundle.version), mapping={"plan": "5a3f", "0": "7 1", "1": "5 0"})
    (stopped,) = look()[bundle.version].refreshes
    assert (stopped.shards_done, stopped.shards_at_most, stopped.entries_written) == (2, None, 12)


def test_a_cache_whose_entries_have_expired_is_empty(redis, refresh, bundle, users, look):
    refresh(users)
    drop_entries(redis, KEYS, bundle.entry_layout, users)
    found = look()[bundle.version]
    assert (found.users, found.megabytes, found.sample) == (0, 0, None)


def test_a_large_cache_is_looked_at_in_part(redis, bundle, look):
    for number in range(2000):
        put_packed(redis, KEYS, bundle.entry_layout, f"user-{number}", bytes([2, 1, *[0] * 10]))
    found = look()[bundle.version]
    assert found.users == 2000
    assert 200 < found.sample.users < 1000
    assert found.users_per_bucket == round(2000 / bundle.entry_layout.buckets, 1)


def test_buckets_that_are_not_compact_are_told_with_the_settings_that_make_them_so(tmp_path, bundle, store):
    redis = connect(ensure_running(tmp_path))
    try:
        redis.config_set("hash-max-ziplist-value", 64)
        long = bytes([2, 1, 200, *[0] * 9]) + bytes(6 * 200)
        for number in range(20):
            put_packed(redis, KEYS, bundle.entry_layout, f"user-{number}", long)
        (cache,) = registered_caches(redis, KEYS, store)
        found = cache_stats(redis, KEYS, cache)
        assert found.sample.compact == 0
        assert found.compact_settings() == (COMPACT_USERS, len(long))
        assert len(long) > COMPACT_ENTRY_BYTES
        # What the command advises: the settings, and a restart.
        redis.config_set("hash-max-ziplist-value", len(long))
        assert cache_stats(redis, KEYS, cache).sample.compact == 0
        redis.execute_command("DEBUG RELOAD")
        assert cache_stats(redis, KEYS, cache).sample.compact == 1
    finally:
        stop(tmp_path)


def test_nothing_is_written(redis, refresh, users, look):
    refresh(users)
    before = {key: redis.dump(key) for key in redis.scan_iter()}
    look()
    redis_stats(redis, KEYS)
    assert {key: redis.dump(key) for key in redis.scan_iter()} == before


def test_the_server_is_described(redis, refresh, users):
    refresh(users)
    redis.zadd(KEYS.dirty, {"ann": 1.0, "ben": 2.0})
    redis.config_set("maxmemory", 10**9)
    try:
        found = redis_stats(redis, KEYS)
    finally:
        redis.config_set("maxmemory", 0)
    assert found.server.startswith(redis.info()["redis_version"])
    assert 0 < found.used_memory < found.max_memory == 10**9
    assert (found.keys, found.dirty) == (redis.dbsize(), 2)
