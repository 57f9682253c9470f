"""Negatives against a slow, obvious version: sets of items."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.item_codes import ItemCodes
from offline.tasks.negatives import NegativeSampler
from offline.tasks.next_items import NextItems
from tests.offline.tasks.conftest import make_histories
from tests.tiny_bundle import random_codes

ITEMS = 30
CODES = ItemCodes(random_codes(np.random.default_rng(3), ITEMS, 5))

rows = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=ITEMS + 5), min_size=1, max_size=4)


def make_sampler(whole, hard_share=0.5, train=None):
    return NegativeSampler(CODES, make_histories(train or whole), make_histories(whole), hard_share)


@settings(max_examples=40, deadline=None)
@given(rows, st.data(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 1000))
def test_negatives_are_distinct_items_the_user_never_took(whole, data, hard_share, seed):
    user = data.draw(st.integers(0, len(whole) - 1))
    besides = data.draw(st.lists(st.integers(0, ITEMS - 1), max_size=4))
    count = data.draw(st.integers(1, 6))
    drawn = make_sampler(whole, hard_share).draw(user, 0, count, np.random.default_rng(seed), besides)
    allowed = set(range(ITEMS)) - set(whole[user]) - set(besides)
    assert set(drawn) <= allowed
    assert len(drawn) == len(set(drawn)) == min(count, len(allowed))


@settings(max_examples=40, deadline=None)
@given(rows, st.data(), st.integers(0, 1000))
def test_hard_negatives_share_a_prefix_while_there_are_such_items(whole, data, seed):
    user, positive = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, ITEMS - 1))
    drawn = make_sampler(whole, 1.0).draw(user, positive, 6, np.random.default_rng(seed), [positive])
    first = CODES.codes_NL[:, 0]
    alike = set(np.flatnonzero(first == first[positive]).tolist()) - set(whole[user]) - {positive}
    assert set(drawn[: len(alike)]) <= alike
    assert not set(drawn[len(alike) :]) & alike


def test_a_negative_is_hard_at_two_depths():
    rng = np.random.default_rng(0)
    sampler = make_sampler([[]], 1.0)
    prefixes = CODES.codes_NL[:, :2]
    positive = next(
        item
        for item in range(ITEMS)
        if 1 < (prefixes == prefixes[item]).all(axis=1).sum() < (prefixes[:, 0] == prefixes[item, 0]).sum()
    )
    deep = [
        bool((prefixes[sampler.draw(0, positive, 1, rng, [positive])[0]] == prefixes[positive]).all())
        for _ in range(400)
    ]
    assert 0.4 < np.mean(deep) < 0.95


def test_every_open_item_is_drawn_and_about_as_often_as_any_other():
    taken = [0, 5, 5, 29, 7]
    sampler, rng = make_sampler([taken], 0.0), np.random.default_rng(0)
    counts = np.bincount([sampler.draw(0, 0, 1, rng)[0] for _ in range(5000)], minlength=ITEMS)
    assert (counts[taken] == 0).all()
    expected = 5000 / (ITEMS - 4)
    open_counts = np.delete(counts, taken)
    assert (abs(open_counts - expected) < 5 * np.sqrt(expected)).all()


@settings(max_examples=40, deadline=None)
@given(rows)
def test_open_items_are_counted_and_known(whole):
    sampler = make_sampler(whole)
    for user, taken in enumerate(whole):
        assert sampler.open_counts[user] == ITEMS - len(set(taken))
        assert [item for item in range(ITEMS) if not sampler.is_open(user, item)] == sorted(set(taken))


def test_training_histories_are_closed_even_where_the_whole_ones_lack_them():
    sampler = make_sampler([[1]], train=[[2]])
    assert not sampler.is_open(0, 1)
    assert not sampler.is_open(0, 2)


def test_histories_of_other_users_are_refused():
    with pytest.raises(ValueError, match="users"):
        make_sampler([[1], [2]], train=[[1]])


@settings(max_examples=40, deadline=None)
@given(rows)
def test_next_items_are_all_but_the_first_of_each_history(histories):
    seen = NextItems(make_histories(histories))
    expected = [(user, row[:at], row[at:]) for user, row in enumerate(histories) for at in range(1, len(row))]
    found = [(seen.user(event), seen.before(event).tolist(), seen.since(event).tolist()) for event in seen.events]
    assert found == expected
    assert seen.users.tolist() == [user for user, _, _ in expected]


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(0, 100))
def test_what_comes_after_an_item_is_what_somebody_took_right_after_it(histories, seed):
    seen, rng = NextItems(make_histories(histories)), np.random.default_rng(seed)
    for item in range(ITEMS):
        after = {b for row in histories for a, b in pairwise(row) if a == item}
        drawn = seen.after(item, 3, rng)
        assert set(drawn) <= after
        assert len(drawn) == len(set(drawn)) <= 3
        assert bool(drawn) == bool(after)
