"""A backup made while items change has every change from before it."""

import pytest

from app import embedded_redis
from model_store.bundle import ModelStore
from model_store.cache_keys import Keys
from model_store.item_records import ItemChange, pack_changes
from offline.backup import backup
from offline.backup.backup import back_up
from offline.backup.restore import restore
from offline.item_changes import ItemChanges
from offline.redis_connection import connect

KEYS, OTHER = Keys("shop"), Keys("copy")


@pytest.fixture
def redis(tmp_path):
    yield connect(embedded_redis.ensure_running(tmp_path / "home"))
    embedded_redis.stop(tmp_path / "home")


def test_changes_of_items_made_during_a_backup_do_not_lose_what_was_before(redis, tmp_path, monkeypatch):
    def write(number):
        change = ItemChange(f"item-{number}", "patch", {"hidden": True})
        return redis.xadd(KEYS.items_log, pack_changes([change]))

    first, second = write(1), write(2)
    redis.set(KEYS.items_upto, first)
    redis.hset(KEYS.items, "item-1", b'{"hidden":true}')
    read = backup.read_records

    def reading_while_the_service_compacts(client, prefix, names):
        yield from read(client, prefix, names)
        # Behind each key that is read a worker brings the snapshot up to date.
        redis.hset(KEYS.items, "item-2", b'{"hidden":true}')
        redis.set(KEYS.items_upto, second)
        redis.xtrim(KEYS.items_log, minid=second, approximate=False)

    monkeypatch.setattr(backup, "read_records", reading_while_the_service_compacts)
    back_up(redis, KEYS, tmp_path / "b.tar")
    restore(redis, OTHER, tmp_path / "b.tar", ModelStore(tmp_path / "store"))
    changes = ItemChanges(redis, OTHER)
    changes.read_on()
    assert changes.records == {"item-1": {"hidden": True}, "item-2": {"hidden": True}}
