"""Who is found worth a refresh, and in which order."""

import time
from dataclasses import replace

import pytest

from model_store.decoders.torch_decoder import TorchDecoder
from offline.refresh.priority import PriorityRule
from offline.refresh.selection import Selection, select_everyone, select_marked
from tests.cached_entries import drop_entries, put_packed
from tests.extended_bundle import extend
from tests.offline.refresh.conftest import KEYS, record_event
from tests.tiny_bundle import build_tiny_bundle

RULE = PriorityRule(86_400, need=5)


@pytest.fixture
def fresh(refresh, users):
    """Everyone has an entry of now."""
    refresh(users)
    return users


def make_old(redis, refresh, bundle, user, days):
    entry = refresh.entry(user)
    old = replace(entry, decoded_at=int(time.time() - days * 86_400))
    put_packed(redis, KEYS, bundle.entry_layout, user, old.pack())


def test_nobody_is_selected_while_everything_is_fresh(redis, bundle, fresh):
    assert select_everyone(redis, KEYS, bundle, RULE).users == []
    assert select_marked(redis, KEYS, bundle, RULE, most=10).users == []


def test_everyone_worth_it_is_found_once_the_most_worth_first(redis, refresh, bundle, fresh):
    gone, dirty, old, older, wanted = fresh[:5]
    drop_entries(redis, KEYS, bundle.entry_layout, [gone])
    for user in (dirty, gone):
        record_event(redis, user, "item")
    make_old(redis, refresh, bundle, old, 4)
    make_old(redis, refresh, bundle, older, 9)
    redis.zadd(KEYS.demand, {wanted: 2.0})
    found = select_everyone(redis, KEYS, bundle, RULE)
    assert found.users == [gone, older, old, dirty, wanted]
    assert found.found == 5
    assert found.count_reasons() == {"no_entry": 1, "news": 1, "age": 2, "demand": 1}


def test_demand_lifts_a_user_above_others(redis, refresh, bundle, fresh):
    for user in fresh[:3]:
        make_old(redis, refresh, bundle, user, 3)
    redis.zadd(KEYS.demand, {fresh[1]: 5.0, fresh[2]: 1.0})
    assert select_everyone(redis, KEYS, bundle, RULE).users == [fresh[1], fresh[2], fresh[0]]


def test_entries_short_of_items_after_some_were_hidden_are_found(redis, refresh, bundle, fresh):
    listed = {user: set(bundle.item_codes.items_of(refresh.entry(user).codes_KL).tolist()) for user in fresh}
    hidden = sorted(listed[fresh[0]])[:3]
    extended = extend(bundle.path.parent, bundle, hidden=hidden)
    found = select_everyone(redis, KEYS, extended, RULE)
    lost = {user: len(items & set(hidden)) for user, items in listed.items()}
    assert set(found.users) == {user for user, items in lost.items() if items}
    in_order = [lost[user] for user in found.users]
    assert in_order == sorted(in_order, reverse=True)
    assert set(found.count_reasons()) == {"short"}


def test_only_the_best_are_kept_and_the_others_counted(redis, refresh, bundle, fresh):
    redis.zadd(KEYS.demand, {user: number + 1 for number, user in enumerate(fresh)})
    found = select_everyone(redis, KEYS, bundle, RULE, most=3)
    assert found.users == [fresh[-1], fresh[-2], fresh[-3]]
    assert found.found == len(fresh)


def test_a_user_with_a_history_and_no_entry_is_found_only_by_a_look_at_histories(redis, bundle, fresh):
    drop_entries(redis, KEYS, bundle.entry_layout, [fresh[9]])
    assert select_everyone(redis, KEYS, bundle, RULE).users == [fresh[9]]
    assert select_everyone(redis, KEYS, bundle, RULE, histories=False).users == []
    redis.zadd(KEYS.demand, {fresh[9]: 1.0})
    assert select_everyone(redis, KEYS, bundle, RULE, histories=False).users == [fresh[9]]


def test_users_with_news_and_in_demand_are_found_without_a_scan(redis, bundle, fresh):
    drop_entries(redis, KEYS, bundle.entry_layout, [fresh[2]])
    record_event(redis, fresh[0], "item", at=1.0)
    record_event(redis, fresh[1], "item", at=2.0)
    redis.zadd(KEYS.demand, {fresh[1]: 2.0, fresh[2]: 1.0})
    found = select_marked(redis, KEYS, bundle, RULE, most=10)
    assert found.users == [fresh[2], fresh[1], fresh[0]]
    fewer = select_marked(redis, KEYS, bundle, RULE, most=1)
    assert set(fewer.users) == {fresh[0], fresh[1]}, "the one with the oldest news, and the one most in demand"
    assert fewer.found == 4, "two marks were not read"


def test_marks_of_users_whom_somebody_has_refreshed_since_are_taken(redis, refresh, bundle, fresh):
    for user in fresh[:4]:
        record_event(redis, user, "item")
    refresh(fresh[:3])
    assert select_marked(redis, KEYS, bundle, RULE, most=10).users == [fresh[3]]
    assert redis.zrange(KEYS.dirty, 0, -1) == [fresh[3].encode()]


def test_news_counts_under_every_version_although_another_was_refreshed_since(redis, refresh, bundle, fresh):
    record_event(redis, fresh[0], "item")
    other = build_tiny_bundle(bundle.path.parent, version="other", catalog=bundle.catalog, activate=False)
    refresh(fresh, bundle=other, decoder=TorchDecoder.from_bundle(other, device="cpu"))
    assert select_marked(redis, KEYS, other, RULE, most=10).users == []
    redis.zadd(KEYS.demand, {fresh[0]: 1.0})
    found = select_marked(redis, KEYS, bundle, RULE, most=10)
    assert (found.users, found.count_reasons()) == ([fresh[0]], {"news": 1})


def test_under_an_extension_the_entries_of_its_base_count(redis, bundle, fresh):
    extended = extend(bundle.path.parent, bundle)
    assert select_everyone(redis, KEYS, extended, RULE).users == []


def test_merging_takes_the_newer_word_on_a_user(redis, refresh, bundle, fresh):
    for user in fresh[:2]:
        make_old(redis, refresh, bundle, user, 3)
    scanned = select_everyone(redis, KEYS, bundle, RULE)
    redis.zadd(KEYS.demand, {fresh[1]: 9.0, fresh[2]: 1.0})
    merged = scanned.merged(select_marked(redis, KEYS, bundle, RULE, most=10))
    assert merged.users == [fresh[1], fresh[0], fresh[2]]
    assert merged.found == 3
    assert merged.without({fresh[0]}).users == [fresh[1], fresh[2]]
    assert Selection.nobody().merged(merged).users == merged.users
