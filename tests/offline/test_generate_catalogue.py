import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offline.generate_catalogue import MAX_EVENTS, MIN_EVENTS, MIN_ITEMS, NAME, generate
from offline.interactions import Dataset, read_dataset
from offline.leave_one_out import EvaluationCases, leave_one_out


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=2_000, items=800, seed=0)
    return read_dataset(folder)


def test_the_default_shop_has_the_size_asked_for_and_nothing_to_warn_about(shop: Dataset) -> None:
    lengths = np.diff(shop.offsets)
    assert (len(shop.user_ids), len(shop.catalog)) == (2_000, 800)
    assert (lengths.min(), lengths.max()) == (MIN_EVENTS, MAX_EVENTS)
    assert shop.warnings == ()
    assert len(set(shop.catalog.titles)) == 800
    assert all(len(categories) == 2 for categories in shop.catalog.categories)
    assert not np.isnan(shop.catalog.prices).any()


def test_nobody_buys_an_item_twice_or_two_at_once(shop: Dataset) -> None:
    for user in range(len(shop.user_ids)):
        history = shop.history(user)
        assert len(set(history.tolist())) == len(history)
        times = shop.timestamps[shop.offsets[user] : shop.offsets[user + 1]]
        assert (np.diff(times) > 0).all()


def test_as_csv_it_is_the_same_shop(shop: Dataset, tmp_path: Path) -> None:
    generate(tmp_path, users=2_000, items=800, seed=0, as_csv=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interactions.csv", "items.csv"]
    read = read_dataset(tmp_path)
    assert read.warnings == ()
    assert read.user_ids == shop.user_ids
    for name in ("offsets", "items", "timestamps"):
        assert (getattr(read, name) == getattr(shop, name)).all()
    for name in ("item_ids", "titles", "texts", "categories", "attributes"):
        assert getattr(read.catalog, name) == getattr(shop.catalog, name), name
    assert (read.catalog.prices == shop.catalog.prices).all()
    assert (read.catalog.available == shop.catalog.available).all()


def hit_at_10(scores_nN: NDArray[np.float64], cases: EvaluationCases) -> float:
    """Share of targets among the 10 best items that are not in the history."""
    hits = 0
    for case, target in enumerate(cases.targets):
        scores = scores_nN[case].copy()
        scores[cases.histories[case]] = -np.inf
        hits += int(np.sum(scores > scores[target]) < 10)
    return hits / len(cases.targets)


def test_order_matters(shop: Dataset) -> None:
    split = leave_one_out(shop)
    cases = split.evaluation_cases("test")
    count = len(shop.catalog)
    popularity = np.bincount(split.train.items, minlength=count) / len(split.train.items)
    followed_by = np.zeros((count, count))
    for user in range(len(split.train)):
        np.add.at(followed_by, (split.train[user][:-1], split.train[user][1:]), 1)
    last = np.array([cases.histories[case][-1] for case in range(len(cases.targets))])
    rng = np.random.default_rng(0)
    any_item = np.array([rng.choice(cases.histories[case]) for case in range(len(cases.targets))])

    by_popularity = hit_at_10(np.tile(popularity, (len(cases.targets), 1)), cases)
    by_last_item = hit_at_10(followed_by[last] + popularity, cases)
    by_shuffled_history = hit_at_10(followed_by[any_item] + popularity, cases)

    assert by_last_item > 0.4
    assert by_last_item > 5 * by_popularity
    assert by_last_item > 3 * by_shuffled_history


def test_popularity_is_skewed(shop: Dataset) -> None:
    counts = np.sort(np.bincount(shop.items, minlength=len(shop.catalog)))[::-1]
    assert counts[:80].sum() > 0.25 * counts.sum()


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / folder, users=30, items=50, seed=seed)
    for suffix in ("inter", "item"):
        first, same, other = ((tmp_path / folder / f"{NAME}.{suffix}").read_bytes() for folder in "abc")
        assert first == same
        assert first != other


@pytest.mark.parametrize(("users", "items"), [(1, MIN_ITEMS), (3, 33), (5, 5_000), (100, 101)])
def test_any_size_makes_a_whole_shop(tmp_path: Path, users: int, items: int) -> None:
    generate(tmp_path, users=users, items=items, seed=3)
    shop = read_dataset(tmp_path)
    assert (len(shop.user_ids), len(shop.catalog)) == (users, items)
    assert len(set(shop.catalog.titles)) == items


def test_a_shop_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="20 items"):
        generate(tmp_path, users=10, items=MIN_ITEMS - 1, seed=0)


def test_the_demo_size_takes_a_moment(tmp_path: Path) -> None:
    start = time.process_time()
    generate(tmp_path, users=2_000, items=800, seed=0)
    # About half a second of one core; the bound leaves room for slow machines.
    assert time.process_time() - start < 5
