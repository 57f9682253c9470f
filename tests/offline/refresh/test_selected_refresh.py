"""A refresh of selected users: as far as the budget goes, and no further."""

import time

import pytest

from offline.refresh.priority import PriorityRule
from offline.refresh.selected_refresh import run_selected_refresh
from offline.refresh.selection import select_everyone
from offline.refresh.user_refresh import UserRefresh
from tests.cached_entries import cached_users, drop_entries
from tests.offline.refresh.conftest import CONFIG, KEYS, record_event

RULE = PriorityRule(86_400, need=5)


@pytest.fixture
def run(redis, bundle, decoder):
    def run(*, most=None, budget_s=None, decoder=decoder):
        by_user = UserRefresh(redis, KEYS, bundle, decoder, CONFIG)
        selection = select_everyone(redis, KEYS, bundle, RULE, most=most)
        return run_selected_refresh(
            bundle.version, by_user, bundle.entry_layout, selection, config=CONFIG, budget_s=budget_s
        )

    return run


def test_without_a_budget_everyone_worth_it_is_refreshed(redis, run, bundle, users):
    summary = run()
    assert (summary.users, summary.skipped, summary.left) == (70, 0, 0)
    assert summary.reasons == {"no_entry": 70}
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)
    assert run().users == 0


def test_a_budget_of_users_takes_the_best_and_tells_how_many_are_left(redis, refresh, run, dataset, users):
    refresh(users)
    for user in users[:10]:
        record_event(redis, user, dataset.catalog.item_ids[0])
    redis.zadd(KEYS.demand, {users[3]: 4.0, users[8]: 2.0})
    summary = run(most=2)
    assert (summary.users, summary.left) == (2, 8)
    left = {user.decode() for user in redis.zrange(KEYS.dirty, 0, -1)}
    assert left == set(users[:10]) - {users[3], users[8]}
    assert not redis.exists(KEYS.demand)


def test_a_budget_of_time_ends_after_the_batch_under_way_and_the_next_run_does_the_rest(redis, run, decoder, users):
    class Slow:
        name = decoder.name

        def decode(self, requests):
            time.sleep(0.2)
            return decoder.decode(requests)

    redis.zadd(KEYS.dirty, dict.fromkeys(users, time.time()))
    summary = run(budget_s=0.1, decoder=Slow())
    assert 0 < summary.users < 70
    assert summary.left == 70 - summary.users == redis.zcard(KEYS.dirty)
    assert run().users == summary.left


def test_a_budget_of_no_time_does_nothing(run, users):
    assert (run(budget_s=0).users, run(budget_s=0).left) == (0, 70)


def test_a_user_who_knows_no_item_is_skipped_and_not_marked_any_more(redis, refresh, run, users):
    refresh(users)
    redis.rpush(KEYS.history("stranger"), "no-such-item")
    redis.zadd(KEYS.dirty, {"stranger": 1.0})
    summary = run()
    assert (summary.users, summary.skipped, summary.left) == (0, 1, 0)
    assert not redis.exists(KEYS.dirty)


def test_an_entry_that_cannot_be_renewed_because_the_history_is_gone_is_not_selected_for_ever(
    redis, refresh, run, bundle, users
):
    refresh(users)
    redis.delete(KEYS.history(users[4]))
    redis.zadd(KEYS.demand, {users[4]: 1.0})
    assert run().skipped == 1
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users) - {users[4]}


def test_missing_entries_come_before_others(redis, refresh, run, bundle, dataset, users):
    refresh(users)
    drop_entries(redis, KEYS, bundle.entry_layout, users[:3])
    record_event(redis, users[5], dataset.catalog.item_ids[0])
    assert run(most=3).reasons == {"no_entry": 3}
    assert run().reasons == {"news": 1}
