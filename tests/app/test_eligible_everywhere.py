"""No route ever returns an item that is seen, excluded, out of stock, or outside the category, price or list asked for.

Nor more of one prefix than a cap allows, and never fewer items than there are.
"""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.settings import Settings
from model_store.bundle import Bundle
from model_store.catalog import Catalog
from tests.app.conftest import Cache, RunningApp, running
from tests.app.light_bundle import CATEGORIES
from tests.app.plain_decoder import plain_decoder

pytestmark = pytest.mark.anyio

ITEMS = 50
USERS = ("ann", "bob", "cleo")

users = st.sampled_from(USERS)
items = st.integers(0, ITEMS - 1)
filters = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 60),
        "offset": st.integers(0, 10),
        "category": st.lists(st.sampled_from(CATEGORIES), max_size=2),
        "exclude": st.lists(items.map(lambda item: f"item-{item}"), max_size=5),
        "in_stock": st.booleans(),
        "price_min": st.floats(0, 60),
        "price_max": st.floats(60, 100),
    },
)
queries = st.integers(0, ITEMS).map(str)
constraints = st.fixed_dictionaries(
    {},
    optional={
        # The last ones are in no catalogue.
        "only": st.lists(st.integers(0, ITEMS + 3).map(lambda item: f"item-{item}"), min_size=1, max_size=30),
        "max_per_prefix": st.integers(1, 5),
        # Of a light bundle all items share the first code, some the first two.
        "prefix_levels": st.integers(1, 3),
    },
)
asked_for = st.builds(lambda page, constraint: page | constraint, filters, constraints)
personal = st.fixed_dictionaries(
    {}, optional={"fresh": st.booleans(), "strict": st.booleans(), "q": queries, "within": st.just("cache")}
)
step = st.one_of(
    st.tuples(st.just("event"), users, items),
    st.tuples(st.just("entry"), users, st.lists(items, unique=True, max_size=30)),
    st.tuples(st.just("user"), users, asked_for, personal),
    st.tuples(st.just("session"), st.lists(items, max_size=5), asked_for, st.none() | queries),
    st.tuples(st.just("batch"), asked_for),
    st.tuples(st.sampled_from(["read", "block"]), users, items),
    st.tuples(st.just("show"), users, filters),
    st.tuples(st.just("similar"), items, users, filters),
    st.tuples(st.sampled_from(["popular", "latest"]), users, filters),
)


@pytest.fixture(params=["decoder", "no decoder"])
async def api(
    request: pytest.FixtureRequest, settings: Settings, stored: redis.Redis, bundle: Bundle, tmp_path: Path
) -> AsyncIterator[RunningApp]:
    with plain_decoder(bundle.item_codes.codes_NL, tmp_path / "decoder.sock") as decoder:
        address = decoder.address if request.param == "decoder" else None
        changes = {"decoder_address": address, "live_deadline_ms": 10_000}
        async with running(settings.model_copy(update=changes)) as app:
            yield app


@given(steps=st.lists(step, min_size=1, max_size=12))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_only_eligible_items_are_returned(api: RunningApp, cache: Cache, steps: list[tuple[Any, ...]]) -> None:
    cache.redis.flushall()
    bundle = cache.bundle
    seen: dict[str, set[int]] = {user: set() for user in USERS}
    for name, *arguments in steps:
        match name, arguments:
            case "event", (user, item):
                sent = await api.client.post("/events", json=[{"user_id": user, "item_id": f"item-{item}"}])
                assert sent.json() == {"accepted": 1, "duplicates": 0, "rejected": []}
                seen[user].add(item)
            case "read", (user, item):
                await api.client.post("/events", json=[{"user_id": user, "item_id": f"item-{item}", "type": "read"}])
                seen[user].add(item)
            case "block", (user, item):
                await api.client.patch(f"/users/{user}/blocks", json={"block": [f"item-{item}"]})
                seen[user].add(item)
            case "show", (user, asked):
                shown = await api.client.get(f"/recommend/{user}", params=asked | {"write_back_type": "read"})
                body = shown.json()
                _check(body, bundle, asked, seen[user])
                seen[user] |= {bundle.catalog.index_of(item["item_id"]) for item in body["items"]}
                await api.services.write_back.flush()
            case "entry", (user, entry):
                cache.put_entry(user, entry)
            case "user", (user, asked, how):
                answer = await api.client.get(f"/recommend/{user}", params=asked | how)
                _check(answer.json(), bundle, asked, seen[user], full=not how.get("strict"))
            case "session", (history, asked, query):
                body = {"history": [f"item-{item}" for item in history], "q": query} | asked
                _check((await api.client.post("/recommend", json=body)).json(), bundle, asked, set(history))
            case "batch", (asked,):
                answer = await api.client.post("/recommend/batch", json={"user_ids": USERS} | asked)
                for user, one in zip(USERS, answer.json()["answers"], strict=True):
                    _check(one, bundle, asked, seen[user])
            case "similar", (item, user, asked):
                answer = await api.client.get(f"/similar/item-{item}", params=asked | {"user_id": user})
                _check(answer.json(), bundle, asked, {item} | seen[user])
            case "popular" | "latest", (user, asked):
                for whose, hidden in (({}, set()), ({"user_id": user}, seen[user])):
                    _check((await api.client.get(f"/{name}", params=asked | whose)).json(), bundle, asked, hidden)


def _check(body: dict[str, Any], bundle: Bundle, asked: dict[str, Any], seen: set[int], full: bool = True) -> None:
    catalog, levels = bundle.catalog, asked.get("prefix_levels", 1)
    cap = asked.get("max_per_prefix", ITEMS)
    returned = [catalog.index_of(item["item_id"]) for item in body["items"]]
    eligible = [item for item in range(ITEMS) if item not in seen and _passes(catalog, item, asked)]
    assert set(returned) <= set(eligible)
    assert len(set(returned)) == len(returned)
    assert max(_by_prefix(bundle, returned, levels), default=0) <= cap
    n, offset = asked.get("n", 10), asked.get("offset", 0)
    if full:
        possible = sum(min(cap, count) for count in _by_prefix(bundle, eligible, levels))
        assert len(returned) == min(n, max(possible - offset, 0)), "as many as there are, up to n"
        if "shortfall_reason" in body:
            short = "max_per_prefix_reached" if possible < len(eligible) else "eligible_items_exhausted"
            assert body["shortfall_reason"] == (short if possible < offset + n else None)
    assert [item["rank"] for item in body["items"]] == list(range(offset + 1, offset + 1 + len(returned)))


def _by_prefix(bundle: Bundle, items: list[int], levels: int) -> list[int]:
    prefixes = [bytes(code) for code in bundle.item_codes.codes_NL[items, :levels]]
    return list(Counter(prefixes).values())


def _passes(catalog: Catalog, item: int, asked: dict[str, Any]) -> bool:
    price = catalog.prices[item]
    return (
        (bool(catalog.available[item]) or not asked.get("in_stock", True))
        and set(asked.get("category", ())) <= set(catalog.categories[item])
        and catalog.item_ids[item] not in asked.get("exclude", ())
        and ("only" not in asked or catalog.item_ids[item] in asked["only"])
        and ("price_min" not in asked or bool(price >= np.float32(asked["price_min"])))
        and ("price_max" not in asked or bool(price <= np.float32(asked["price_max"])))
    )
