"""The refresh against a real Redis: what it writes, what it resumes, what it keeps."""

import numpy as np
import pytest
import redis as redis_library

from app.embedded_redis import ensure_running, stop
from model_store.cache_schema import CacheEntry, Keys
from model_store.decoders.protocol import Decoded
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.redis_connection import connect
from offline.refresh_cache import (
    CacheRefresh,
    RefreshConfig,
    import_histories,
    read_user_ids,
    stale_users,
    users_with_history,
)
from tests.extended_bundle import extend
from tests.tiny_bundle import build_tiny_bundle

KEYS = Keys("test")
CONFIG = RefreshConfig(k=5, beam_width=10, shard_users=20)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield connect(ensure_running(home))
    stop(home)


@pytest.fixture(autouse=True)
def empty_redis(redis):
    redis.flushall()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=70, items=40, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, dataset):
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), catalog=dataset.catalog)


@pytest.fixture(scope="module")
def decoder(bundle):
    return TorchDecoder.from_bundle(bundle, device="cpu")


class DiesAt:
    """The real decoder, until a given batch, where the process ends."""

    def __init__(self, decoder, batch):
        self._decoder, self._left, self.name = decoder, batch, decoder.name

    def decode(self, requests):
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._decoder.decode(requests)


def entries(redis, bundle, users):
    return {user: CacheEntry.unpack(redis.get(KEYS.entry(bundle.version, user))) for user in users}


def test_every_user_gets_k_valid_unseen_items_best_first(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    summary = CacheRefresh(redis, KEYS, bundle, decoder, CONFIG).run(users)
    assert (summary.users, summary.k, summary.skipped) == (70, 5, 0)
    assert summary.bytes_per_user > 8 + 5 * 6
    for index, (_, entry) in enumerate(entries(redis, bundle, users).items()):
        items = bundle.item_codes.items_of(entry.codes_KL)
        assert len(set(items.tolist())) == 5
        assert (items >= 0).all()
        assert not set(items.tolist()) & set(dataset.history(index).tolist())
        assert (np.diff(entry.scores.astype(float)) <= 0).all()
        assert entry.generator == "torch"


def test_entries_and_histories_have_a_lifetime(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    CacheRefresh(redis, KEYS, bundle, decoder, CONFIG).run(users)
    assert 0 < redis.ttl(KEYS.entry(bundle.version, users[0])) <= CONFIG.entry_ttl_s
    assert 0 < redis.ttl(KEYS.history(users[0])) <= CONFIG.history_ttl_s


def test_the_version_is_served_only_after_the_switch(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    job = CacheRefresh(redis, KEYS, bundle, decoder, CONFIG)
    job.run(users)
    assert redis.get(KEYS.active) is None
    job.switch()
    assert redis.get(KEYS.active).decode() == bundle.version


def test_a_killed_refresh_resumes_without_redoing_finished_shards(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        CacheRefresh(redis, KEYS, bundle, DiesAt(decoder, 2), CONFIG).run(users)
    first_shard = {user: redis.get(KEYS.entry(bundle.version, user)) for user in users[:20]}
    redis.set(KEYS.entry(bundle.version, users[0]), b"untouched")
    counting = DiesAt(decoder, 100)
    summary = CacheRefresh(redis, KEYS, bundle, counting, CONFIG).run(users, resume=True)
    assert summary.users == 70
    assert counting._left == 100 - 2
    assert redis.get(KEYS.entry(bundle.version, users[0])) == b"untouched"
    assert all(first_shard.values())


def test_resume_with_other_settings_is_refused(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        CacheRefresh(redis, KEYS, bundle, DiesAt(decoder, 1), CONFIG).run(users)
    other = RefreshConfig(k=6, beam_width=10, shard_users=20)
    with pytest.raises(TesseraError, match="other users or settings"):
        CacheRefresh(redis, KEYS, bundle, decoder, other).run(users, resume=True)


def test_a_refresh_of_some_users_does_not_get_in_the_way_of_an_unfinished_one_of_all(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        CacheRefresh(redis, KEYS, bundle, DiesAt(decoder, 2), CONFIG).run(users)
    some = users[40:]
    with pytest.raises(KeyboardInterrupt):
        CacheRefresh(redis, KEYS, bundle, DiesAt(decoder, 1), CONFIG).run(some, partial=True)
    counting = DiesAt(decoder, 100)
    assert CacheRefresh(redis, KEYS, bundle, counting, CONFIG).run(some, resume=True, partial=True).users == len(some)
    assert not redis.exists(KEYS.refresh_ledger(bundle.version, partial=True)), "nothing is left to resume"
    left = counting._left
    assert CacheRefresh(redis, KEYS, bundle, counting, CONFIG).run(users, resume=True).users == 70
    assert counting._left == left - 2, "two shards of four were done"


def test_an_event_during_the_decode_leaves_the_user_dirty_and_others_clean(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    redis.zadd(KEYS.dirty, dict.fromkeys(users, 1.0))

    class WithNews:
        name = decoder.name

        def decode(self, requests):
            redis.rpush(KEYS.history(users[3]), dataset.catalog.item_ids[0])
            return decoder.decode(requests)

    CacheRefresh(redis, KEYS, bundle, WithNews(), RefreshConfig(k=5, beam_width=10)).run(users)
    assert [user.decode() for user in redis.zrange(KEYS.dirty, 0, -1)] == [users[3]]


def test_importing_again_keeps_the_events_that_only_redis_knows(redis, dataset):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    unseen = next(i for i in dataset.catalog.item_ids if dataset.catalog.index_of(i) not in dataset.history(0))
    redis.rpush(KEYS.history(users[0]), unseen)
    import_histories(redis, KEYS, dataset, CONFIG)
    stored = [item.decode() for item in redis.lrange(KEYS.history(users[0]), 0, -1)]
    assert stored == [dataset.catalog.item_ids[i] for i in dataset.history(0)] + [unseen]


def test_users_who_know_no_item_are_counted_not_lost(redis, bundle, decoder):
    redis.rpush(KEYS.history("stranger"), "no-such-item")
    summary = CacheRefresh(redis, KEYS, bundle, decoder, CONFIG).run(["stranger"])
    assert (summary.users, summary.skipped) == (0, 1)


def test_stale_users_are_the_dirty_and_those_without_an_entry(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    CacheRefresh(redis, KEYS, bundle, decoder, CONFIG).run(users)
    redis.zadd(KEYS.dirty, {users[5]: 1.0})
    redis.delete(KEYS.entry(bundle.version, users[9]))
    assert stale_users(redis, KEYS, bundle.version, users) == [users[5], users[9]]


def test_an_extension_refreshes_the_entries_of_its_base(redis, dataset, bundle, decoder):
    extended = extend(bundle.path.parent, bundle)
    users = import_histories(redis, KEYS, dataset, CONFIG)
    CacheRefresh(redis, KEYS, bundle, decoder, CONFIG).run(users)
    assert stale_users(redis, KEYS, extended.cache_version, users) == []
    redis.set(KEYS.entry(bundle.version, users[0]), b"to be replaced")
    job = CacheRefresh(redis, KEYS, extended, TorchDecoder.from_bundle(extended, device="cpu"), CONFIG)
    summary = job.run(users)
    assert redis.hlen(KEYS.refresh_ledger(extended.version)) == 1 + 4, "a ledger of its own: the plan and four shards"
    job.switch()
    assert redis.get(KEYS.active).decode() == extended.version == summary.version
    assert set(redis.keys("test:rec:*")) == {KEYS.entry(bundle.version, user).encode() for user in users}
    assert len(entries(redis, bundle, users)) == 70
    assert summary.bytes_per_user > 8 + 5 * 6


def test_users_are_found_by_their_histories(redis, dataset):
    assert users_with_history(redis, KEYS) == []
    import_histories(redis, KEYS, dataset, CONFIG)
    assert users_with_history(redis, KEYS) == sorted(dataset.user_ids)


def test_a_full_redis_stops_the_refresh_with_a_clear_error(redis, dataset, bundle, decoder):
    users = import_histories(redis, KEYS, dataset, CONFIG)
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(TesseraError, match="--resume"):
            CacheRefresh(redis, KEYS, bundle, decoder, CONFIG).run(users)
    finally:
        redis.config_set("maxmemory", 0)


def test_an_address_where_nothing_answers_is_a_clear_error_without_the_password():
    with pytest.raises(TesseraError, match="does not answer") as failure:
        connect("redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(failure.value)


def test_scores_survive_as_half_floats(bundle, decoder):
    job = CacheRefresh(redis_library.Redis(), KEYS, bundle, decoder, CONFIG)
    entry = job._entry([Decoded(0, -1.25), Decoded(1, -20.5)], 7)
    assert CacheEntry.unpack(entry.pack()).scores.tolist() == [-1.25, -20.5]


def test_a_file_of_users_gives_each_once_and_an_empty_one_is_an_error(tmp_path):
    path = tmp_path / "users"
    path.write_text("b\n a \n\nb\n")
    assert read_user_ids(path) == ["b", "a"]
    path.write_text("\n")
    with pytest.raises(TesseraError, match="no user id"):
        read_user_ids(path)
