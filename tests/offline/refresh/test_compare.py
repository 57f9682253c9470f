"""Two versions' lists, compared as items."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from model_store.bundle import ModelStore
from model_store.cache_entries import CacheEntry
from model_store.catalog import Catalog
from model_store.errors import TesseraError
from offline.refresh.compare import compare, positions_in, rank_correlations
from tests.cached_entries import put_packed
from tests.extended_bundle import extend
from tests.offline.refresh.conftest import KEYS
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def other(bundle):
    """A version with the same items at other indices, other codes, and without the last three."""
    old = bundle.catalog
    order = np.random.default_rng(5).permutation(len(old) - 3)
    catalog = Catalog(
        item_ids=tuple(old.item_ids[index] for index in order),
        titles=tuple(old.titles[index] for index in order),
        texts=tuple(old.texts[index] for index in order),
        categories=tuple(old.categories[index] for index in order),
        prices=old.prices[order],
        attributes=tuple(old.attributes[index] for index in order),
        available=old.available[order],
    )
    return build_tiny_bundle(bundle.path.parent, version="tiny-2", catalog=catalog, seed=2, activate=False)


@pytest.fixture
def cached(redis):
    """Caches lists of item ids."""

    def put(bundle, lists):
        for user, ids in lists.items():
            codes = bundle.item_codes.codes_NL[[bundle.catalog.index_of(item) for item in ids]]
            entry = CacheEntry(codes, np.zeros(len(ids), np.float16), 0, 1, "torch")
            put_packed(redis, KEYS, bundle.entry_layout, user, entry.pack())

    return put


def test_the_same_items_are_the_same_whatever_their_codes(redis, bundle, other, cached):
    ids = other.catalog.item_ids[:12]
    lists = {f"user-{number}": ids[number:] + ids[:number] for number in range(12)}
    cached(bundle, lists)
    cached(other, lists)
    found = compare(redis, KEYS, bundle, other)
    assert (found.users, found.compared, found.only_in) == ((12, 12), 12, (0, 0))
    assert (found.overlap_at_10, found.same_first_item, found.rank_correlation) == (1, 1, 1)
    assert found.rank_correlation_users == 12


def test_figures_of_lists_that_differ(redis, bundle, other, cached):
    a, b, c, d, e = other.catalog.item_ids[:5]
    missing = bundle.catalog.item_ids[-1]
    assert missing not in other.catalog
    cached(bundle, {"ann": [a, b, c, d], "ben": [a, b], "cat": [missing, a], "dan": [a]})
    cached(other, {"ann": [a, c, b, e], "ben": [c, d], "cat": [a, b], "eve": [a]})
    found = compare(redis, KEYS, bundle, other)
    assert (found.users, found.compared, found.only_in) == ((4, 4), 3, (1, 1))
    assert found.overlap_at_10 == pytest.approx((3 / 4 + 0 + 1 / 2) / 3, abs=1e-4)
    assert found.same_first_item == pytest.approx(1 / 3, abs=1e-4)
    assert (found.rank_correlation, found.rank_correlation_users) == (0.5, 1)


def test_overlap_is_of_the_first_ten_alone(redis, bundle, other, cached):
    ids = other.catalog.item_ids
    cached(bundle, {"ann": ids[:20]})
    cached(other, {"ann": ids[10:20] + ids[:10]})
    assert compare(redis, KEYS, bundle, other).overlap_at_10 == 0


def test_both_ways_round_give_the_same(redis, bundle, other, cached):
    random = np.random.default_rng(0)
    ids = np.array(other.catalog.item_ids)
    for version, users in ((bundle, range(60)), (other, range(20, 90))):
        cached(version, {f"user-{user}": random.choice(ids, random.integers(1, 15), replace=False) for user in users})
    there, back = compare(redis, KEYS, bundle, other), compare(redis, KEYS, other, bundle)
    assert there.compared == 40
    assert there.only_in == back.only_in[::-1] == (20, 30)
    for name in ("overlap_at_10", "same_first_item", "rank_correlation", "rank_correlation_users"):
        assert getattr(there, name) == getattr(back, name)


def test_coverage_is_of_the_users_with_a_history(redis, bundle, other, users, cached):
    ids = other.catalog.item_ids[:3]
    cached(bundle, dict.fromkeys(users, ids))
    cached(other, dict.fromkeys([*users[7:], "no history"], ids))
    found = compare(redis, KEYS, bundle, other)
    assert found.coverage == (1, round(1 - 7 / len(users), 4))
    assert found.users == (len(users), len(users) - 6)
    assert found.compared == len(users) - 7


def test_some_users_stand_for_all(redis, bundle, other, cached):
    ids = other.catalog.item_ids[:3]
    cached(bundle, {f"user-{number}": ids for number in range(3000)})
    cached(other, {f"user-{number}": ids for number in range(0, 3000, 2)})
    found = compare(redis, KEYS, bundle, other, users=600)
    assert found.sampled
    assert 200 < found.compared < 500
    assert found.only_in[0] == pytest.approx(1500, rel=0.2)
    assert found.same_first_item == 1
    assert not compare(redis, KEYS, bundle, other, users=5000).sampled


def test_an_entry_that_cannot_be_read_is_left_out(redis, bundle, other, cached):
    ids = other.catalog.item_ids[:3]
    for version in (bundle, other):
        cached(version, {"ann": ids, "ben": ids})
    put_packed(redis, KEYS, other.entry_layout, "ben", b"\x09nonsense")
    found = compare(redis, KEYS, bundle, other)
    assert (found.compared, found.only_in) == (1, (0, 0))


def test_empty_lists_and_no_common_user_give_no_figures(redis, bundle, other, cached):
    cached(bundle, {"ann": other.catalog.item_ids[:3]})
    cached(other, {"ben": other.catalog.item_ids[:3]})
    found = compare(redis, KEYS, bundle, other)
    assert (found.compared, found.overlap_at_10, found.same_first_item) == (0, None, None)
    empty = CacheEntry(np.empty((0, 4), np.uint8), np.empty(0, np.float16), 0, 1, "torch").pack()
    put_packed(redis, KEYS, other.entry_layout, "ann", empty)
    found = compare(redis, KEYS, bundle, other)
    assert (found.compared, found.overlap_at_10, found.same_first_item, found.rank_correlation) == (1, 0, 0, None)


def test_a_version_without_entries_is_told_with_what_fills_it(redis, bundle, other, cached):
    cached(bundle, {"ann": bundle.catalog.item_ids[:3]})
    for pair in ((bundle, other), (other, bundle)):
        with pytest.raises(TesseraError, match=f"refresh --version {other.version} --shadow"):
            compare(redis, KEYS, *pair)


def test_a_version_and_its_extension_have_nothing_to_compare(redis, bundle):
    extension = extend(bundle.path.parent, bundle)
    with pytest.raises(TesseraError, match=f"same entries, those of {bundle.version}"):
        compare(redis, KEYS, bundle, extension)
    assert ModelStore(bundle.path.parent).line_of(bundle.version)


def test_rank_correlation_agrees_with_scipy():
    random = np.random.default_rng(1)
    first, second = (np.array([random.permutation(30)[:12] for _ in range(50)]) for _ in range(2))
    found = rank_correlations(positions_in(first, second))
    for row, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        common = [item for item in one if item in other]
        if len(common) < 2:
            assert np.isnan(found[row])
        else:
            expected = spearmanr(range(len(common)), [other.index(item) for item in common]).statistic
            assert found[row] == pytest.approx(expected)


def test_positions_are_those_in_the_list_of_the_same_user():
    first = np.array([[5, 3, 9, -2], [7, 5, -1, 0]])
    second = np.array([[9, 5, -2], [3, 9, 5]])
    assert positions_in(first, second).tolist() == [[1, -1, 0, -1], [-1, 2, -1, -1]]
    assert positions_in(first, np.empty((2, 0), np.int64)).tolist() == [[-1] * 4] * 2
