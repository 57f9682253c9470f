"""A purge takes what is cached of one version, and nothing else."""

import pytest

from model_store.bundle import ModelStore
from model_store.errors import TesseraError
from offline.refresh.cache_purge import purge
from offline.refresh.registered_caches import registered_cache
from tests.cached_entries import cached_users, put_packed
from tests.extended_bundle import extend
from tests.offline.refresh.conftest import KEYS, DiesAt
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def other(bundle, dataset):
    """Another version, which is not served."""
    return build_tiny_bundle(bundle.path.parent, version="tiny-2", catalog=dataset.catalog, seed=2, activate=False)


@pytest.fixture
def store(bundle):
    return ModelStore(bundle.path.parent)


@pytest.fixture
def purged(redis, store):
    return lambda version, **options: purge(redis, KEYS, registered_cache(redis, KEYS, store, version), **options)


def test_all_of_the_version_goes_and_all_else_stays(redis, refresh, bundle, other, users, purged):
    refresh(users)
    before = {key: redis.dump(key) for key in redis.scan_iter() if key != KEYS.caches.encode()}
    for user in users:
        put_packed(redis, KEYS, other.entry_layout, user, refresh.packed(user))
    redis.set(KEYS.kept(other.version), "")
    redis.hset(KEYS.refresh_ledger(other.version), "0", "1 0")
    redis.hset(KEYS.refresh_ledger(other.version, partial=True), "0", "1 0")
    assert purged(other.version) == len(users)
    assert {key: redis.dump(key) for key in redis.scan_iter() if key != KEYS.caches.encode()} == before
    assert redis.hkeys(KEYS.caches) == [bundle.version.encode()]
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)


def test_the_served_version_is_purged_by_force_alone(redis, refresh, bundle, users, purged):
    refresh(users)
    with pytest.raises(TesseraError, match=r"being served.*--force"):
        purged(bundle.version)
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)
    assert purged(bundle.version, force=True) == len(users)
    assert cached_users(redis, KEYS, bundle.entry_layout) == set()


def test_the_base_of_a_served_extension_is_served(redis, refresh, bundle, other, users, purged):
    extension = extend(bundle.path.parent, other)
    put_packed(redis, KEYS, other.entry_layout, users[0], b"x")
    redis.set(KEYS.active, extension.version)
    with pytest.raises(TesseraError, match="being served"):
        purged(other.version)


def test_an_extension_has_no_entries_of_its_own(redis, bundle, other, purged):
    extension = extend(bundle.path.parent, other)
    put_packed(redis, KEYS, other.entry_layout, "ann", b"x")
    with pytest.raises(TesseraError, match=f"answers from those of {other.version}"):
        purged(extension.version)


def test_an_unknown_version_is_told_with_those_that_there_are(redis, bundle, other, purged):
    with pytest.raises(TesseraError, match="nothing is cached of lost; there are entries of: no version"):
        purged("lost")
    for version in (bundle, other):
        put_packed(redis, KEYS, version.entry_layout, "ann", b"x")
    with pytest.raises(TesseraError, match=f"there are entries of: {bundle.version}, {other.version}"):
        purged("lost")


def test_a_refresh_stopped_before_the_purge_is_not_resumed_behind_it(redis, refresh, bundle, decoder, users, purged):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, decoder=DiesAt(decoder, 2))
    purged(bundle.version, force=True)
    refresh(users, resume=True)
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)


def test_the_ledger_of_an_extension_goes_too(redis, bundle, other, purged):
    extension = extend(bundle.path.parent, other)
    put_packed(redis, KEYS, other.entry_layout, "ann", b"x")
    redis.hset(KEYS.refresh_ledger(extension.version), "0", "1 0")
    purged(other.version)
    assert not redis.exists(KEYS.refresh_ledger(extension.version))


def test_a_name_without_entries_is_forgotten(redis, other, purged):
    redis.hset(KEYS.caches, other.version, other.entry_layout.buckets)
    assert purged(other.version) == 0
    assert not redis.exists(KEYS.caches)


def test_a_full_redis_can_be_purged(redis, refresh, bundle, users, purged):
    refresh(users)
    redis.config_set("maxmemory", 1)
    try:
        assert purged(bundle.version, force=True) == len(users)
    finally:
        redis.config_set("maxmemory", 0)
