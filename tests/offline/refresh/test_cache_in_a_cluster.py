"""What the commands ask of Redis, a cluster answers too."""

import time

import pytest

from model_store.bundle import ModelStore
from model_store.cache_entries import pack_entries
from offline.redis_connection import connect
from offline.refresh.cache_purge import purge
from offline.refresh.cache_stats import cache_stats
from offline.refresh.compare import compare
from offline.refresh.redis_stats import redis_stats
from offline.refresh.registered_caches import registered_caches
from tests.app.light_bundle import publish_light_bundle
from tests.app.test_redis_connection import server
from tests.cached_entries import put_packed
from tests.offline.refresh.conftest import KEYS

USERS = 40


@pytest.fixture
def redis(tmp_path):
    """A cluster of one node."""
    with server(tmp_path / "cluster", "--cluster-enabled", "yes") as port:
        node = connect(f"redis://127.0.0.1:{port}")
        node.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        deadline = time.monotonic() + 10
        while node.cluster("info")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield connect(f"redis+cluster://127.0.0.1:{port}")


def test_stats_compare_and_purge(redis, tmp_path):
    versions = [publish_light_bundle(tmp_path / "store", f"light-{number}", seed=number) for number in (1, 2)]
    for bundle in versions:
        for user in range(USERS):
            entry = pack_entries(bundle.item_codes.codes_NL[None, user : user + 5], [[0.0] * 5], [0], 1, "torch")[0]
            put_packed(redis, KEYS, bundle.entry_layout, f"user-{user}", entry)
    for user in range(USERS):
        redis.rpush(KEYS.history(f"user-{user}"), "item-1")
    assert redis_stats(redis, KEYS).keys == redis.dbsize()
    caches = registered_caches(redis, KEYS, ModelStore(tmp_path / "store"))
    assert [cache_stats(redis, KEYS, cache).users for cache in caches] == [USERS, USERS]
    found = compare(redis, KEYS, *versions)
    assert (found.compared, found.coverage, found.same_first_item) == (USERS, (1, 1), 1)
    assert [purge(redis, KEYS, cache, force=True) for cache in caches] == [USERS, USERS]
    assert redis.dbsize() == USERS
