"""The newest items come first, by their time where the catalogue has one."""

from dataclasses import replace

import numpy as np
import pytest

from app.latest_items import LatestItems
from model_store.bundle import Bundle
from tests.app.conftest import RunningApp, ids
from tests.app.light_bundle import OUT_OF_STOCK


def order(bundle: Bundle, attributes: dict[int, dict[str, str]]) -> tuple[list[int], list[float]]:
    count = len(bundle.catalog)
    catalog = replace(bundle.catalog, attributes=tuple(attributes.get(item, {}) for item in range(count)))
    items, times = LatestItems(catalog).top(6, np.ones(count, dtype=np.bool_), {48})
    return items.tolist(), times.tolist()


def test_without_times_later_items_are_newer(bundle: Bundle) -> None:
    assert order(bundle, {}) == ([49, 47, 46, 45, 44, 43], [0] * 6)


def test_times_are_iso_or_unix_seconds_and_come_before_items_without(bundle: Bundle) -> None:
    times = {
        3: {"timestamp": "1700000000"},
        5: {"created_at": "2024-01-01T00:00:00+01:00"},
        6: {"created_at": "2023-12-31"},
        7: {"timestamp": "soon"},
        8: {"timestamp": "nan", "created_at": "1600000000.5"},
    }
    assert order(bundle, times) == (
        [5, 6, 3, 8, 49, 47],
        [1_704_063_600, 1_703_980_800, 1_700_000_000, 1_600_000_000.5, 0, 0],
    )


@pytest.mark.anyio
async def test_the_filter_and_pages_hold(api: RunningApp, bundle: Bundle) -> None:
    toys = [i for i, names in enumerate(bundle.catalog.categories) if "toys" in names and i not in OUT_OF_STOCK]
    expected = [f"item-{item}" for item in sorted(toys, reverse=True)]
    whole = await api.client.get("/latest?category=toys&n=100")
    assert ids(whole) == expected
    assert {item["reason"] for item in whole.json()["items"]} == {"latest"}
    page = await api.client.get(f"/latest?category=toys&n=2&offset=1&exclude={expected[0]}")
    assert ids(page) == expected[2:4]
