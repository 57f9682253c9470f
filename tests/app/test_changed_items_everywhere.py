"""An item that is hidden, deleted or out of stock is absent from the very next answer of every route and every worker.

Two applications with one Redis stand for two workers. Nothing that may be shown is missing either.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import Keys
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import CATEGORIES, publish_light_bundle
from tests.app.plain_decoder import plain_decoder

pytestmark = pytest.mark.anyio

ITEMS = 50
VERSIONS = ("light-1", "other")

items = st.integers(0, 7)
workers = st.integers(0, 1)
fields = st.fixed_dictionaries(
    {},
    optional={
        "in_stock": st.booleans(),
        "hidden": st.booleans(),
        "price": st.none() | st.sampled_from([10.0, 90.0]),
        "categories": st.lists(st.sampled_from(CATEGORIES), max_size=2, unique=True),
    },
)
gorse_fields = st.fixed_dictionaries(
    {},
    optional={
        "IsHidden": st.booleans(),
        "Categories": st.none() | st.lists(st.sampled_from(CATEGORIES), max_size=2, unique=True),
    },
)
changes = st.one_of(
    st.tuples(st.just("put"), items, fields),
    st.tuples(st.just("patch"), items, fields.filter(bool)),
    st.tuples(st.just("patch"), items, st.sampled_from([{"hidden": True}, {"in_stock": False}])),
    st.tuples(st.just("delete"), items, st.just({})),
)
step = st.one_of(
    st.tuples(st.just("write"), workers, changes),
    st.tuples(st.just("write"), workers, changes),
    st.tuples(st.just("bulk"), workers, st.lists(changes, min_size=1, max_size=6)),
    st.tuples(st.just("gorse patch"), workers, items, gorse_fields),
    st.tuples(st.just("gorse delete"), workers, items),
    st.tuples(st.just("many"), workers),
    st.tuples(st.just("compact"), workers),
    st.tuples(st.just("restart redis")),
    st.tuples(st.just("switch"), st.sampled_from(VERSIONS)),
)


@dataclass
class Expected:
    """What is known of one item, the slow and obvious way."""

    in_stock: bool
    price: float | None
    categories: frozenset[str]
    hidden: bool = False
    deleted: bool = False

    @property
    def shown(self) -> bool:
        return self.in_stock and not self.hidden and not self.deleted


@dataclass
class Shop:
    """What has been written, to be laid over the catalogue that is served."""

    catalogs: dict[str, Bundle]
    served: str = VERSIONS[0]
    writes: dict[int, dict[str, Any]] = field(default_factory=dict)

    def write(self, operation: str, item: int, said: dict[str, Any]) -> bool:
        before = self.writes.get(item, {})
        if operation != "put" and before.get("deleted"):
            return False
        match operation:
            case "put":
                defaults = {"in_stock": True, "price": None, "categories": [], "hidden": False, "deleted": False}
                self.writes[item] = defaults | said
            case "patch":
                self.writes[item] = before | said
            case "delete":
                self.writes[item] = {"deleted": True}
        return True

    def items(self) -> list[Expected]:
        catalog = self.catalogs[self.served].catalog
        found = []
        for item in range(ITEMS):
            said = self.writes.get(item, {})
            found.append(
                Expected(
                    in_stock=said.get("in_stock", bool(catalog.available[item])),
                    price=said.get("price", float(catalog.prices[item])),
                    categories=frozenset(said.get("categories", catalog.categories[item])),
                    hidden=said.get("hidden", False),
                    deleted=said.get("deleted", False),
                )
            )
        return found


@pytest.fixture
async def apps(
    settings: Settings, stored: redis.Redis, bundle: Bundle, tmp_path: Path
) -> AsyncIterator[list[RunningApp]]:
    store = tmp_path / "store"
    publish_light_bundle(store)
    publish_light_bundle(store, VERSIONS[1], seed=1)
    ModelStore(store).activate(VERSIONS[0])
    with plain_decoder(bundle.item_codes.codes_NL, tmp_path / "decoder.sock") as decoder:
        changed = {"store": store, "decoder_address": decoder.address, "live_deadline_ms": 10_000}
        # Nobody looks unasked: what is known comes with the answers themselves.
        changed |= {"redis_timeout_ms": 1000, "active_poll_ms": 600_000}
        async with (
            running(settings.model_copy(update=changed)) as first,
            running(settings.model_copy(update=changed)) as second,
        ):
            yield [first, second]


@given(steps=st.lists(step, min_size=1, max_size=8))
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_route_shows_what_was_removed(
    apps: list[RunningApp], cache: Cache, home: Path, steps: list[tuple[Any, ...]]
) -> None:
    cache.redis.flushall()
    for app in apps:
        await app.services.item_log.load(again=True)
    shop = Shop({version: apps[0].services.store.open(version) for version in VERSIONS})
    await switch(apps, cache, VERSIONS[0])
    for number, (name, *arguments) in enumerate(steps):
        match name, arguments:
            case "write", (worker, (operation, item, said)):
                answer = await write(apps[worker].client, operation, item, said)
                assert answer.is_success == shop.write(operation, item, said)
                assert answer.status_code in (200, 201, 404)
            case "bulk", (worker, rows):
                body = [row(*one) for one in rows]
                answer = await apps[worker].client.post("/items", json=body)
                accepted = [shop.write(*one) for one in rows]
                assert answer.json()["accepted"] == sum(accepted)
                rejected = [number for number, taken in enumerate(accepted) if not taken]
                assert [one["row"] for one in answer.json()["rejected"]] == rejected
            case "gorse patch", (worker, item, said):
                answer = await apps[worker].client.patch(f"/api/item/item-{item}", json=said)
                names = {"IsHidden": "hidden", "Categories": "categories"}
                own = {names[name]: value for name, value in said.items() if value is not None}
                assert answer.status_code == (200 if shop.write("patch", item, own) else 404)
            case "gorse delete", (worker, item):
                answer = await apps[worker].client.delete(f"/api/item/item-{item}")
                assert answer.json() == {"RowAffected": int(shop.write("delete", item, {}))}
            case "many", (worker,):
                # More than a read takes along.
                for price in range(70):
                    await write(apps[worker].client, "put", 0, {"price": price, "hidden": price < 69})
                shop.write("put", 0, {"price": 69, "hidden": False})
            case "compact", (worker,):
                await apps[worker].services.item_log.compact()
            case "restart redis", ():
                embedded_redis.stop(home)
                embedded_redis.ensure_running(home)
                await healthy(apps)
            case "switch", (version,):
                shop.served = version
                await switch(apps, cache, version)
        for worker, app in enumerate(apps):
            if (number + worker) % 2:
                # Reads the changes in the round trip that it takes anyway, where the first of `check` has one for them.
                shown = {f"item-{item}" for item, one in enumerate(shop.items()) if one.shown}
                assert set(ids(await app.client.get("/recommend/ann?n=100"))) == shown
            await check(app.client, shop)


def row(operation: str, item: int, said: dict[str, Any]) -> dict[str, Any]:
    title = {"title": f"New {item}"} if operation == "put" else {}
    return {"item_id": f"item-{item}", "operation": operation} | title | said


async def write(client: httpx.AsyncClient, operation: str, item: int, said: dict[str, Any]) -> httpx.Response:
    target = f"/items/item-{item}"
    match operation:
        case "put":
            return await client.put(target, json={"title": f"New {item}"} | said)
        case "patch":
            return await client.patch(target, json=said)
        case _:
            return await client.delete(target)


async def healthy(apps: list[RunningApp]) -> None:
    deadline = time.monotonic() + 10
    for app in apps:
        while (await app.client.get("/health/ready")).json()["status"] != "ready":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def switch(apps: list[RunningApp], cache: Cache, version: str) -> None:
    cache.redis.set(Keys().active, version)
    deadline = time.monotonic() + 10
    for app in apps:
        while (await app.client.get("/recommend/nobody?n=1")).json()["model_version"] != version:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


async def check(client: httpx.AsyncClient, shop: Shop) -> None:
    """Compare every route with what is expected: nothing else is shown, and nothing is missing."""
    items = shop.items()
    shown = {f"item-{number}" for number, item in enumerate(items) if item.shown}
    there = {f"item-{number}" for number, item in enumerate(items) if not item.deleted and not item.hidden}
    every = [f"item-{number}" for number in range(ITEMS)]

    assert set(ids(await client.get("/popular?n=100"))) == shown
    assert set(ids(await client.get("/popular?n=100&in_stock=false"))) == there
    toys = {f"item-{number}" for number, item in enumerate(items) if item.shown and "toys" in item.categories}
    assert set(ids(await client.get("/popular?n=100&category=toys"))) == toys
    cheap = {f"item-{n}" for n, item in enumerate(items) if item.shown and item.price is not None and item.price <= 50}
    assert set(ids(await client.get("/popular?n=100&price_max=50"))) == cheap
    assert set(ids(await client.get("/recommend/ann?n=100"))) == shown
    assert set(ids(await client.post("/recommend", json={"user_id": "ann", "n": 100, "in_stock": False}))) == there
    session = await client.post("/recommend", json={"history": ["item-1", "item-40"], "n": 100, "strict": True})
    assert set(ids(session)) == shown - {"item-1", "item-40"}
    batch = (await client.post("/recommend/batch", json={"user_ids": ["ann", "bob"], "n": 100})).json()["answers"]
    assert all({item["item_id"] for item in answer["items"]} == shown for answer in batch)

    for anchor in ("item-2", "item-40"):
        similar = await client.get(f"/similar/{anchor}?n=100")
        if items[int(anchor.removeprefix("item-"))].deleted:
            assert similar.status_code == 404
        else:
            assert set(ids(similar)) == shown - {anchor}

    await check_gorse_alias(client, items, shown, toys)

    ranked = (await client.post("/rank", json={"history": ["item-40"], "items": every})).json()
    assert {item["item_id"] for item in ranked["items"]} == shown
    assert {item["item_id"] for item in ranked["withheld"]} == set(every) - shown
    assert [item["rank"] for item in ranked["items"]] == list(range(1, len(shown) + 1))

    listed: list[str] = []
    target: str | None = "/items?n=30"
    while target is not None:
        page = (await client.get(target)).json()
        listed += [item["item_id"] for item in page["items"]]
        target = f"/items?n=30&cursor={page['next']}" if page["next"] else None
    assert sorted(listed) == sorted(shown)
    for number in range(3):
        assert (await client.get(f"/items/item-{number}")).status_code == (404 if items[number].deleted else 200)


async def check_gorse_alias(client: httpx.AsyncClient, items: list[Expected], shown: set[str], toys: set[str]) -> None:
    """The same of the routes in Gorse's names."""
    scored = {"headers": {"X-API-Version": "2"}}
    for path in ("recommend/ann", "popular", "latest", "non-personalized/popular", "non-personalized/latest"):
        found = (await client.get(f"/api/{path}?n=100", **scored)).json()
        assert {one["Id"] for one in found} == shown, path
    for path in ("recommend/ann/toys?", "popular/toys?", "latest/toys?", "non-personalized/latest?category=toys&"):
        found = (await client.get(f"/api/{path}n=100", **scored)).json()
        assert {one["Id"] for one in found} == toys, path
    session = [{"FeedbackType": "like", "ItemId": f"item-{item}"} for item in (1, 40)]
    found = (await client.post("/api/session/recommend?n=100", json=session)).json()
    assert {one["Id"] for one in found} == shown - {"item-1", "item-40"}
    for path in ("item/item-2/neighbors", "item-to-item/any/item-2"):
        answer = await client.get(f"/api/{path}?n=100")
        if items[2].deleted:
            assert answer.status_code == 404
        else:
            assert {one["Id"] for one in answer.json()} == shown - {"item-2"}
    listed = (await client.get("/api/items?n=100")).json()["Items"]
    assert {one["ItemId"]: one["IsHidden"] for one in listed} == {
        f"item-{number}": item.hidden for number, item in enumerate(items) if not item.deleted
    }
    for number in range(3):
        assert (await client.get(f"/api/item/item-{number}")).status_code == (404 if items[number].deleted else 200)
