"""The refresh against a real Redis: what it writes, what it resumes, what it keeps."""

import numpy as np
import pytest

from model_store.cache_entries import history_digest
from model_store.cache_keys import Keys, buckets_for
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.redis_connection import connect
from offline.refresh.config import RefreshConfig
from offline.refresh.ledger import Ledger
from tests.cached_entries import cached_users, drop_entries, put_packed
from tests.extended_bundle import extend
from tests.offline.refresh.conftest import CONFIG, KEYS, DiesAt, record_event


def test_every_user_gets_k_valid_unseen_items_best_first(refresh, dataset, bundle, users):
    summary = refresh(users)
    assert (summary.users, summary.k, summary.skipped, summary.coverage) == (70, 5, 0, 1)
    for index, user in enumerate(users):
        entry = refresh.entry(user)
        items = bundle.item_codes.items_of(entry.codes_KL)
        assert len(set(items.tolist())) == 5
        assert (items >= 0).all()
        assert not set(items.tolist()) & set(dataset.history(index).tolist())
        assert (np.diff(entry.scores.astype(float)) <= 0).all()
        assert entry.generator == "torch"


def test_entries_and_histories_have_a_lifetime(redis, refresh, bundle, users):
    refresh(users)
    assert 0 < redis.ttl(KEYS.bucket_of(bundle.entry_layout, users[0])) <= CONFIG.entry_ttl_s
    assert 0 < redis.ttl(KEYS.history(users[0])) <= CONFIG.history_ttl_s


def test_the_cache_of_a_version_is_known_by_name_and_number_of_buckets(redis, refresh, bundle, users):
    refresh(users)
    assert redis.hgetall(KEYS.caches) == {bundle.version.encode(): str(bundle.entry_layout.buckets).encode()}
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)


def test_a_killed_refresh_resumes_without_redoing_finished_shards(redis, refresh, decoder, bundle, users):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, decoder=DiesAt(decoder, 2))
    first = next(user for user in users if refresh.packed(user))
    put_packed(redis, KEYS, bundle.entry_layout, first, b"untouched")
    done = redis.hlen(KEYS.refresh_ledger(bundle.version)) - 1
    counting = DiesAt(decoder, 100)
    summary = refresh(users, decoder=counting, resume=True)
    assert (summary.users, summary.coverage) == (70, 1)
    assert done in (1, 2), "the last one decoded may not have been written"
    assert refresh.packed(first) == b"untouched"
    shards = redis.hlen(KEYS.refresh_ledger(bundle.version)) - 1
    assert counting.left == 100 - (shards - done)
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)


def test_users_who_came_after_the_kill_do_not_stop_a_refresh_from_being_resumed(redis, refresh, decoder, users):
    with pytest.raises(KeyboardInterrupt):
        refresh(users[:50], decoder=DiesAt(decoder, 2))
    assert redis.hlen(KEYS.refresh_ledger(refresh.bundle.version)) > 1
    summary = refresh(users, resume=True)
    with_entry = cached_users(redis, KEYS, refresh.bundle.entry_layout)
    assert set(users[:50]) <= with_entry
    assert summary.users == len(with_entry)


@pytest.mark.parametrize("change", [{"k": 6}, {"beam_width": 11}])
def test_resume_with_other_settings_is_refused(refresh, decoder, users, change):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, decoder=DiesAt(decoder, 1))
    other = RefreshConfig(**{"k": 5, "beam_width": 10, "shard_users": 20} | change)
    with pytest.raises(TesseraError, match=f"has {next(iter(change))}"):
        refresh(users, config=other, resume=True)


@pytest.mark.parametrize(
    "plan", ["5a3f k=5 beam=10 shard=20", '{"k": 5, "beam_width": 10, "buckets": 1024, "buckets_per_shard": 0}']
)
def test_a_ledger_of_another_form_is_refused(redis, refresh, users, plan):
    redis.hset(KEYS.refresh_ledger(refresh.bundle.version), "plan", plan)
    with pytest.raises(TesseraError, match="another Tessera"):
        refresh(users, resume=True)


def test_a_refresh_of_some_users_does_not_get_in_the_way_of_an_unfinished_one_of_all(redis, refresh, decoder, users):
    with pytest.raises(KeyboardInterrupt):
        refresh(users, decoder=DiesAt(decoder, 2))
    some = users[40:]
    with pytest.raises(KeyboardInterrupt):
        refresh(some, decoder=DiesAt(decoder, 1), partial=True)
    assert refresh(some, resume=True, partial=True).users == len(some)
    summary = refresh(users, resume=True)
    assert summary.users == 70


def test_a_closed_ledger_leaves_nothing_to_resume(redis, refresh, users):
    refresh(users)
    Ledger(redis, KEYS, refresh.bundle.version).close()
    counting = DiesAt(refresh.decoder, 100)
    refresh(users, decoder=counting, resume=True)
    assert counting.left < 100


def test_an_entry_tells_whether_events_came_since_its_history_was_read(redis, refresh, decoder, dataset, users):
    class WithNews:
        name = decoder.name

        def decode(self, requests):
            record_event(redis, users[3], dataset.catalog.item_ids[0])
            return decoder.decode(requests)

    refresh(users, decoder=WithNews(), config=RefreshConfig(k=5, beam_width=10))

    def is_of_now(user):
        return refresh.entry(user).history_digest == history_digest(redis.lrange(KEYS.history(user), 0, -1))

    assert [user for user in users if not is_of_now(user)] == [users[3]]


def test_a_refresh_of_a_version_that_is_not_served_takes_no_marks_from_the_one_that_is(redis, refresh, users):
    redis.zadd(KEYS.dirty, dict.fromkeys(users, 1.0))
    redis.zadd(KEYS.demand, dict.fromkeys(users, 2.0))
    refresh(users)
    assert redis.zcard(KEYS.dirty) == redis.zcard(KEYS.demand) == len(users)


def test_users_who_know_no_item_are_counted_not_lost(redis, refresh, users):
    redis.rpush(KEYS.history("stranger"), "no-such-item")
    summary = refresh(["stranger", *users[:3]])
    assert (summary.users, summary.skipped, summary.coverage) == (3, 1, 0.75)


def test_entries_of_users_without_a_history_go_with_a_refresh_of_all_and_stay_with_one_of_some(
    redis, refresh, bundle, users
):
    refresh(users)
    redis.delete(KEYS.history(users[7]))
    staying = [user for user in users if user != users[7]]
    refresh(staying, partial=True)
    assert refresh.packed(users[7])
    unlisted = staying[5]
    refresh([user for user in staying if user != unlisted])
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(staying), "who is not listed and has a history stays"


def test_what_is_out_of_stock_is_not_decoded(redis, refresh, bundle, tmp_path, users):
    refresh(users)
    gone = int(bundle.item_codes.items_of(refresh.entry(users[0]).codes_KL)[0])
    available = bundle.catalog.available.copy()
    available[gone] = False
    object.__setattr__(bundle.catalog, "available", available)
    try:
        refresh(users)
        shown = {int(item) for user in users for item in bundle.item_codes.items_of(refresh.entry(user).codes_KL)}
    finally:
        available[gone] = True
    assert gone not in shown


def test_an_extension_refreshes_the_entries_of_its_base(redis, refresh, bundle, users):
    extended = extend(bundle.path.parent, bundle)
    refresh(users)
    put_packed(redis, KEYS, bundle.entry_layout, users[0], b"to be replaced")
    refresh(users, bundle=extended, decoder=TorchDecoder.from_bundle(extended, device="cpu"))
    assert redis.exists(KEYS.refresh_ledger(extended.version)), "a ledger of its own"
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)
    assert all(len(refresh.entry(user).codes_KL) == 5 for user in users)


def test_a_full_redis_stops_the_refresh_with_a_clear_error_and_loses_nothing(redis, refresh, users):
    refresh(users)
    before = {user: refresh.packed(user) for user in users}
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(TesseraError, match="--resume"):
            refresh(users)
        assert {user: refresh.packed(user) for user in users} == before
    finally:
        redis.config_set("maxmemory", 0)


def test_an_address_where_nothing_answers_is_a_clear_error_without_the_password():
    with pytest.raises(TesseraError, match="does not answer") as failure:
        connect("redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(failure.value)


def test_dropped_entries_are_decoded_again_by_a_refresh_of_their_users(redis, refresh, bundle, users):
    refresh(users)
    drop_entries(redis, KEYS, bundle.entry_layout, users[:2])
    refresh(users[:2], partial=True)
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)


@pytest.mark.parametrize(("users", "buckets"), [(0, 1), (10, 1), (48, 1), (49, 2), (10**5, 4096), (10**6, 32_768)])
def test_buckets_are_for_48_users_at_most(users, buckets):
    assert buckets_for(users) == buckets
    assert users / buckets <= 48


def test_a_namespace_is_part_of_every_key():
    keys = Keys("shop")
    assert all(name.startswith("shop:") for name in (keys.active, keys.caches, keys.dirty, keys.demand))
