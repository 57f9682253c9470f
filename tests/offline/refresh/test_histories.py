"""Histories brought to Redis, and users found there or in a file."""

import pytest

from model_store.errors import TesseraError
from offline.refresh.histories import import_histories, users_of_file, users_with_history
from tests.offline.refresh.conftest import CONFIG, KEYS


def test_importing_again_keeps_the_events_that_only_redis_knows(redis, dataset, users):
    unseen = next(i for i in dataset.catalog.item_ids if dataset.catalog.index_of(i) not in dataset.history(0))
    redis.rpush(KEYS.history(users[0]), unseen)
    import_histories(redis, KEYS, dataset, CONFIG)
    stored = [item.decode() for item in redis.lrange(KEYS.history(users[0]), 0, -1)]
    assert stored == [dataset.catalog.item_ids[i] for i in dataset.history(0)] + [unseen]


def test_users_are_found_by_their_histories(redis, dataset):
    assert list(users_with_history(redis, KEYS)) == []
    import_histories(redis, KEYS, dataset, CONFIG)
    assert sorted(users_with_history(redis, KEYS)) == sorted(dataset.user_ids)


def test_a_file_of_users_is_one_a_line_and_an_empty_one_is_an_error(tmp_path):
    path = tmp_path / "users"
    path.write_text("b\n a \n\nb\n")
    assert list(users_of_file(path)) == ["b", "a", "b"]
    path.write_text("\n")
    with pytest.raises(TesseraError, match="no user id"):
        list(users_of_file(path))
    with pytest.raises(TesseraError, match="missing"):
        list(users_of_file(tmp_path / "missing"))
