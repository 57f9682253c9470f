"""Which of two users is worth more."""

import numpy as np
import pytest

from model_store.cache_entries import EntryTable, pack_entries
from offline.refresh.priority import REASONS, Priorities, PriorityRule

NOW = 1_800_000_000
DAY_S = 86_400


def packed(bundle, items, age_s=0):
    codes_UKL = bundle.item_codes.codes_NL[list(items)][None]
    (entry,) = pack_entries(codes_UKL, np.zeros(codes_UKL.shape[:2]), np.zeros(1), NOW - age_s, "torch")
    return entry


@pytest.fixture
def hiding(bundle):
    """The bundle's catalogue with items 0 to 4 out of stock, for one test."""
    before = bundle.catalog.available
    available = before.copy()
    available[:5] = False
    object.__setattr__(bundle.catalog, "available", available)
    yield
    object.__setattr__(bundle.catalog, "available", before)


def weigh(bundle, *entries, news=None, demand=None, rule=None):
    """Pairs of priority and reason."""
    priorities = Priorities(bundle, rule or PriorityRule(DAY_S), bundle.catalog.available)
    news = np.zeros(len(entries), bool) if news is None else np.array(news)
    demand = np.zeros(len(entries)) if demand is None else np.array(demand, float)
    worth = priorities.weigh(EntryTable.unpack(list(entries)), news, demand, NOW)
    return list(zip(worth.priorities.tolist(), [REASONS[reason] for reason in worth.reasons], strict=True))


def test_a_fresh_whole_entry_without_news_and_demand_is_worth_nothing(bundle):
    ((priority, _),) = weigh(bundle, packed(bundle, range(5, 20)))
    assert priority == 0


def test_more_demand_comes_first(bundle):
    entry = packed(bundle, range(5, 20), age_s=2 * DAY_S)
    priorities = [priority for priority, _ in weigh(bundle, entry, entry, entry, demand=[0, 1, 7])]
    assert priorities == sorted(priorities)
    assert priorities[2] == pytest.approx(8 * priorities[0])


def test_the_older_entry_comes_first(bundle):
    entries = [packed(bundle, range(5, 20), age_s=days * DAY_S) for days in (2, 3, 9)]
    priorities = [priority for priority, _ in weigh(bundle, *entries)]
    assert priorities == sorted(priorities)
    assert len(set(priorities)) == 3


def test_no_entry_comes_before_any_old_one_however_old(bundle):
    (none, reason), (odd, _), (old, _) = weigh(bundle, b"", b"\x09nonsense", packed(bundle, range(20), 900 * DAY_S))
    assert none == odd > old
    assert reason == "no_entry"


def test_news_of_a_minute_come_before_an_entry_that_is_a_little_old(bundle):
    entries = [packed(bundle, range(5, 20), age_s=60), packed(bundle, range(5, 20), age_s=DAY_S + 60)]
    (news, reason), (old, other) = weigh(bundle, *entries, news=[True, False])
    assert news > old > 0
    assert (reason, other) == ("news", "age")


@pytest.mark.usefixtures("hiding")
def test_the_more_of_its_needed_items_an_entry_lost_the_sooner_it_comes(bundle):
    whole, one, four = packed(bundle, range(5, 20)), packed(bundle, range(4, 14)), packed(bundle, range(1, 11))
    priorities = weigh(bundle, whole, one, four)
    assert priorities[0][0] == 0
    assert priorities[2][0] == pytest.approx(4 * priorities[1][0])
    assert priorities[1][1] == priorities[2][1] == "short"


@pytest.mark.usefixtures("hiding")
def test_an_entry_that_still_has_enough_is_not_short(bundle):
    ((priority, _),) = weigh(bundle, packed(bundle, range(15)))
    assert priority == 0


@pytest.mark.usefixtures("hiding")
def test_an_entry_that_never_had_enough_is_short_only_of_what_it_lost(bundle):
    (whole, _), (lost, reason) = weigh(bundle, packed(bundle, range(5, 9)), packed(bundle, range(3, 7)))
    assert (whole, reason) == (0, "short")
    assert lost > 0


def test_an_item_that_the_version_does_not_know_is_lost(bundle):
    unknown = np.array(list(np.ndindex(1, 1, 1, 256))[:10], np.uint8)
    unknown = unknown[bundle.item_codes.items_of(unknown) < 0]
    (entry,) = pack_entries(unknown[None], np.zeros((1, len(unknown))), np.zeros(1), NOW, "torch")
    ((_, reason),) = weigh(bundle, entry)
    assert reason == "short"


def test_a_rule_without_an_allowed_age_finds_every_entry_too_old(bundle):
    ((priority, reason),) = weigh(bundle, packed(bundle, range(5, 20), age_s=1), rule=PriorityRule(0))
    assert (priority > 0, reason) == (True, "age")
