"""`max_per_prefix`: one list in which no prefix has more items than the cap, whatever part they come from."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from app.settings import Settings
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.live.conftest import ITEMS, names
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio

IN_STOCK = [item for item in range(ITEMS) if item not in OUT_OF_STOCK]
TWO_CODES = {"max_per_prefix": 1, "prefix_levels": 2}
"""Of a light bundle all items share the first code."""


def prefix(bundle: Bundle, item: int) -> bytes:
    return bundle.item_codes.codes_NL[item, :2].tobytes()


def families(bundle: Bundle) -> list[list[int]]:
    """Items in stock by their first two codes, the largest family first."""
    found: dict[bytes, list[int]] = {}
    for item in IN_STOCK:
        found.setdefault(prefix(bundle, item), []).append(item)
    return sorted(found.values(), key=len, reverse=True)


def counts(bundle: Bundle, items: list[str]) -> Counter[bytes]:
    return Counter(prefix(bundle, bundle.catalog.index_of(item)) for item in items)


async def test_cached_live_and_popular_items_count_together(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    first, second, *others = families(cache.bundle)
    cache.put_entry("ann", [first[0], first[1], second[0], first[2]])
    seen = others[-1][0]
    cache.put_history("ann", [seen])
    asked: dict[str, Any] = TWO_CODES | {"n": 8, "explain": True}
    answer = await api.client.get("/recommend/ann", params=asked)
    body = answer.json()
    assert ids(answer)[:2] == names([first[0], second[0]])
    assert [item["reason"] for item in body["items"]] == ["cache"] * 2 + ["live"] * 6
    assert set(counts(cache.bundle, ids(answer)).values()) == {1}
    assert body["explain"]["removed"]["max_per_prefix"] == 2
    one = decoder.asked[0]
    assert (one.max_per_prefix, one.prefix_levels, one.n) == (1, 2, 8)
    decoder.status = 500
    without = await api.client.get("/recommend/ann", params=asked | {"n": 7})
    assert [item["reason"] for item in without.json()["items"]] == ["cache"] * 2 + ["neighbors"] * 5
    assert set(counts(cache.bundle, ids(without)).values()) == {1}
    stranger = await api.client.get("/recommend/stranger", params=asked)
    assert [item["reason"] for item in stranger.json()["items"]] == ["popular"] * 8
    assert set(counts(cache.bundle, ids(stranger)).values()) == {1}


@pytest.mark.parametrize("more", [{}, {"q": "close to 25"}, {"q": "25", "within": "cache"}], ids=str)
async def test_pages_are_one_capped_list(api: RunningApp, cache: Cache, more: dict[str, Any]) -> None:
    cache.put_entry("ann", [40, 41, 42, 2, 4, 8, 9, 10])
    cache.put_history("ann", [20])
    asked = {"max_per_prefix": 2, "prefix_levels": 2, "n": 4} | more
    pages = [await api.client.get("/recommend/ann", params=asked | {"offset": offset}) for offset in range(0, 40, 4)]
    whole = await api.client.get("/recommend/ann", params=asked | {"n": 40})
    assert [item for page in pages for item in ids(page)] == ids(whole)
    allowed = Counter(prefix(cache.bundle, item) for item in IN_STOCK if item != 20)
    assert counts(cache.bundle, ids(whole)) == {code: min(2, count) for code, count in allowed.items()}
    assert len(set(ids(whole))) == len(ids(whole))
    assert whole.json()["shortfall_reason"] == "max_per_prefix_reached"


async def test_capped_answer_is_never_the_users_entry(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_history("ann", [20])
    decoder.delay_s = 0.05
    answer = await api.client.get("/recommend/ann", params=TWO_CODES | {"n": 8})
    assert answer.json()["source"] == "live"
    await api.services.recommender.settle()
    assert cache.packed("ann") is None
    async with asyncio.timeout(5):
        while (kept := cache.packed("ann")) is None:
            await asyncio.sleep(0.01)
    entry = cache.bundle.item_codes.items_of(CacheEntry.unpack(kept).codes_KL).tolist()
    assert max(counts(cache.bundle, names(entry)).values()) > 1, "decoded behind, without the cap"
    assert decoder.asked[1].max_per_prefix is None


async def test_within_the_cache_the_best_of_each_prefix_by_the_new_order_is_kept(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    first, second = (sorted(family) for family in families(cache.bundle)[:2])
    cache.put_entry("ann", [*first, *second])
    asked = TWO_CODES | {"within": "cache", "q": f"close to {first[-1]}", "n": 3}
    answer = await api.client.get("/recommend/ann", params=asked)
    near = [decoder.best([], family, asked["q"])[0] for family in (first, second)]
    assert ids(answer)[:2] == names([first[-1], near[1]])
    assert [item["reason"] for item in answer.json()["items"]] == ["reranked"] * 2 + ["live"]
    assert decoder.asked[0].candidates == sorted(first + second)


async def test_list_that_the_cap_cuts_short_says_so(api: RunningApp, cache: Cache, decoder: PlainDecoder) -> None:
    cache.put_entry("ann", [1, 2, 4, 5, 6])
    cache.put_history("ann", [20])
    answer = await api.client.get("/recommend/ann?max_per_prefix=3")
    assert ids(answer) == ["item-1", "item-2", "item-4"]
    assert answer.json()["shortfall_reason"] == "max_per_prefix_reached"
    assert not decoder.asked, "no decode could find what has room"
    assert 'tessera_short_lists_total{reason="max_per_prefix_reached"} 1.0' in (await api.client.get("/metrics")).text
    allowed = {"user_id": "ann", "only": ["item-1", "item-9"], "max_per_prefix": 3}
    answer = await api.client.post("/recommend", json=allowed)
    assert (ids(answer), answer.json()["shortfall_reason"]) == (["item-1", "item-9"], "eligible_items_exhausted")
    answer = await api.client.post("/recommend", json=allowed | {"max_per_prefix": 1})
    assert (ids(answer), answer.json()["shortfall_reason"]) == (["item-1"], "max_per_prefix_reached")


async def test_strict_list_tells_the_cap_from_a_lack_of_personal_items(settings: Settings, cache: Cache) -> None:
    first = families(cache.bundle)[0]
    cache.put_entry("ann", first[:3])
    cache.put_entry("bob", first[:1])
    async with running(settings) as app:
        reasons = [
            (await app.client.get(f"/recommend/{user}", params=TWO_CODES | {"strict": True})).json()["shortfall_reason"]
            for user in ("ann", "bob", "stranger")
        ]
    assert reasons == ["max_per_prefix_reached", "personal_items_exhausted", "no_history"]


async def test_cap_that_no_list_reaches_changes_nothing(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [20])
    plain = await api.client.post("/recommend", json={"history": ["item-20"], "n": 40})
    for cap in (100, 10**30):
        answer = await api.client.post("/recommend", json={"history": ["item-20"], "n": 40, "max_per_prefix": cap})
        assert answer.json()["items"] == plain.json()["items"]


async def test_prefix_levels_without_a_cap_mean_nothing(api: RunningApp, decoder: PlainDecoder) -> None:
    body = {"history": ["item-20"], "n": 20, "prefix_levels": 2}
    assert len(ids(await api.client.post("/recommend", json=body))) == 20
    assert decoder.asked[0].max_per_prefix is None
