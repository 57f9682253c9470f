"""The filter against a slow, obvious version; neighbours and popular items against sorting everything."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.eligibility import Eligibility, ItemFilter
from app.neighbors import Neighbors
from app.popular_items import PopularItems
from model_store.bundle import Bundle
from model_store.prefix_trie import EligibleItems, PrefixTrie
from tests.app.light_bundle import CATEGORIES

filters = st.builds(
    ItemFilter,
    categories=st.frozensets(st.sampled_from([*CATEGORIES, "unheard of"]), max_size=2),
    price_min=st.none() | st.floats(0, 100),
    price_max=st.none() | st.floats(0, 100),
    in_stock=st.booleans(),
)


@pytest.mark.anyio
@given(item_filter=filters)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_masks_agree_with_asking_item_by_item(bundle: Bundle, item_filter: ItemFilter) -> None:
    catalog = bundle.catalog
    eligibility = Eligibility(catalog, bundle.trie, cache_bytes=5 * 50 * 3)

    def passes(item: int) -> bool:
        price = catalog.prices[item]
        return bool(
            (catalog.available[item] or not item_filter.in_stock)
            and item_filter.categories <= set(catalog.categories[item])
            and (item_filter.price_min is None or price >= np.float32(item_filter.price_min))
            and (item_filter.price_max is None or price <= np.float32(item_filter.price_max))
        )

    expected = [passes(item) for item in range(50)]
    found = await eligibility.items(item_filter)
    assert found.mask.tolist() == expected
    assert found.total == sum(expected)
    some = np.array([3, 41, 3, 0])
    assert eligibility.allowed(item_filter, some).tolist() == [expected[item] for item in some]


@pytest.mark.anyio
async def test_kept_masks_are_bounded(bundle: Bundle) -> None:
    eligibility = Eligibility(bundle.catalog, bundle.trie, cache_bytes=5 * 50 * 3)
    first = await eligibility.items(ItemFilter(price_min=0.0))
    assert await eligibility.items(ItemFilter(price_min=0.0)) is first
    for price in range(1, 20):
        await eligibility.items(ItemFilter(price_min=float(price)))
    assert len(eligibility._kept) == 3
    assert await eligibility.items(ItemFilter(price_min=0.0)) is not first


records = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "hidden": st.booleans(),
        "deleted": st.booleans(),
        "in_stock": st.booleans(),
        "price": st.none() | st.floats(0, 100, width=32),
        "categories": st.lists(st.sampled_from(CATEGORIES), max_size=2),
    },
)


@pytest.mark.anyio
@pytest.mark.parametrize("looked_at", [0, 10_000])
@given(
    steps=st.lists(st.dictionaries(st.integers(0, 60), records, min_size=1, max_size=4), min_size=1, max_size=4),
    some=st.lists(filters, min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_masks_follow_changed_items_whether_kept_or_not(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, looked_at: int, steps: list[Any], some: list[ItemFilter]
) -> None:
    monkeypatch.setattr("app.eligibility._CHECKED_AT_MOST", looked_at)
    catalog = bundle.catalog
    eligibility = Eligibility(catalog, bundle.trie, cache_bytes=1 << 20)
    now: dict[int, dict[str, Any]] = {}

    def passes(item: int, item_filter: ItemFilter) -> bool:
        said = now.get(item, {})
        price = said.get("price", catalog.prices[item])
        price = np.float32(np.nan if price is None else price)
        return bool(
            not said.get("hidden")
            and not said.get("deleted")
            and (said.get("in_stock", catalog.available[item]) or not item_filter.in_stock)
            and item_filter.categories <= set(said.get("categories", catalog.categories[item]))
            and (item_filter.price_min is None or price >= np.float32(item_filter.price_min))
            and (item_filter.price_max is None or price <= np.float32(item_filter.price_max))
        )

    for step in steps:
        # Some of them are in no catalogue.
        eligibility.apply({f"item-{item}": record for item, record in step.items()})
        now |= {item: record or {} for item, record in step.items()}
        for item_filter in some:
            expected = [passes(item, item_filter) for item in range(50)]
            assert (await eligibility.items(item_filter)).mask.tolist() == expected
            assert eligibility.allowed(item_filter, np.arange(50)).tolist() == expected


class Space:
    """25,000 random unit vectors: enough that wide filters are answered by the index."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        self.vectors = random.normal(size=(25_000, 8)).astype(np.float32)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        index = faiss.IndexFlatIP(8)
        index.add(self.vectors)
        faiss.write_index(index, str(folder / "items.faiss"))
        self.neighbors = Neighbors(self.vectors, folder / "items.faiss")

    def eligible(self, mask: np.ndarray) -> EligibleItems:
        count = len(mask)
        trie = PrefixTrie(
            *(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int32), np.zeros(0, np.int32)),
            np.arange(count, dtype=np.int32),
            np.zeros(0, np.int32),
        )
        return EligibleItems.from_mask(trie, mask)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return Space(tmp_path_factory.mktemp("space"))


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3, 0.001, 0.0])
@pytest.mark.parametrize("n", [1, 10, 300])
def test_neighbors_are_the_nearest_that_pass(space: Space, share: float, n: int) -> None:
    mask = np.random.default_rng(1).random(25_000) < share
    query = space.neighbors.query_of([1, 2, 3])
    order = np.argsort(-(space.vectors @ query), kind="stable")
    hidden = set(order[:7].tolist())
    expected = [item for item in order.tolist() if mask[item] and item not in hidden][:n]
    items, similarities = space.neighbors.search(query, n, space.eligible(mask), hidden)
    assert items.tolist() == expected
    np.testing.assert_allclose(similarities, space.vectors[expected] @ query, atol=1e-6)


def test_filter_that_leaves_only_the_far_side_is_searched_exactly(space: Space) -> None:
    query = space.neighbors.query_of([1])
    nearness = space.vectors @ query
    mask = nearness < np.sort(nearness)[-3000]
    items, _ = space.neighbors.search(query, 5, space.eligible(mask), set())
    expected = [item for item in np.argsort(-nearness, kind="stable").tolist() if mask[item]][:5]
    assert items.tolist() == expected


def test_newer_items_weigh_more(space: Space) -> None:
    query = space.neighbors.query_of([1, 2])
    assert query @ space.vectors[2] > query @ space.vectors[1]
    assert np.linalg.norm(query) == pytest.approx(1)
    assert np.array_equal(space.neighbors.query_of([*range(100, 200), *range(20)]), space.neighbors.query_of(range(20)))


@pytest.mark.parametrize("share", [1.0, 0.01, 0.0])
def test_popular_items_agree_with_sorting(share: float) -> None:
    random = np.random.default_rng(2)
    popularity = random.permutation(10_000).astype(np.float32)
    mask = random.random(10_000) < share
    order = np.argsort(-popularity, kind="stable").tolist()
    hidden = set(order[:5])
    items, counts = PopularItems(popularity).top(30, mask, hidden)
    assert items.tolist() == [item for item in order if mask[item] and item not in hidden][:30]
    assert counts.tolist() == popularity[items].tolist()
