"""Who needs a refresh."""

from offline.refresh.stale_users import stale_users
from tests.cached_entries import drop_entries
from tests.extended_bundle import extend
from tests.offline.refresh.conftest import KEYS


def test_stale_users_are_the_dirty_and_those_without_an_entry(redis, refresh, bundle, users):
    refresh(users)
    redis.zadd(KEYS.dirty, {users[5]: 1.0})
    drop_entries(redis, KEYS, bundle.entry_layout, [users[9]])
    assert list(stale_users(redis, KEYS, bundle.entry_layout, users)) == [users[5], users[9]]


def test_under_an_extension_the_entries_of_its_base_count(redis, refresh, bundle, users):
    refresh(users)
    extended = extend(bundle.path.parent, bundle)
    assert list(stale_users(redis, KEYS, extended.entry_layout, users)) == []
