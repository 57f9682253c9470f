"""What can be said of items over HTTP, and what the answers are."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK, UNPRICED
from tests.app.plain_decoder import plain_decoder
from tests.app.test_problems import assert_problem

pytestmark = pytest.mark.anyio


async def test_item_of_the_catalogue_is_shown_as_published(api: RunningApp, bundle: Bundle) -> None:
    item = (await api.client.get("/items/item-7")).json()
    assert item == {
        "item_id": "item-7",
        "title": "Title 7",
        "text": "",
        "categories": list(bundle.catalog.categories[7]),
        "price": pytest.approx(float(bundle.catalog.prices[7])),
        "attributes": {},
        "in_stock": True,
        "hidden": False,
        "code": api.services.active.served.codes_of([7])[0],
        "decodable": True,
        "not_decodable": None,
    }
    assert (await api.client.get(f"/items/item-{UNPRICED[0]}")).json()["price"] is None
    assert not (await api.client.get(f"/items/item-{OUT_OF_STOCK[0]}")).json()["in_stock"]
    assert_problem(await api.client.get("/items/nothing"), 404, "item-not-found")


async def test_put_says_all_and_patch_some(api: RunningApp) -> None:
    said = {"title": "Lamp", "text": "warm", "categories": ["toys"], "price": 12.99, "attributes": {"brand": "Lux"}}
    put = await api.client.put("/items/item-7", json=said)
    assert put.status_code == 200
    assert put.json() | said == put.json() == (await api.client.get("/items/item-7")).json()
    patched = (await api.client.patch("/items/item-7", json={"price": None, "in_stock": False})).json()
    assert patched == put.json() | {"price": None, "in_stock": False}
    again = (await api.client.put("/items/item-7", json={"title": "Lamp"})).json()
    assert again == put.json() | {"text": "", "categories": [], "price": None, "attributes": {}}


async def test_deleted_item_is_gone_and_comes_back_by_put(api: RunningApp) -> None:
    code = (await api.client.get("/items/item-7")).json()["code"]
    assert (await api.client.delete("/items/item-7")).json() == {"item_id": "item-7", "deleted": True}
    assert_problem(await api.client.get("/items/item-7"), 404, "item-not-found")
    assert_problem(await api.client.get("/similar/item-7"), 404, "item-not-found")
    assert_problem(await api.client.patch("/items/item-7", json={"price": 1}), 404, "item-not-found")
    assert_problem(await api.client.delete("/items/item-7"), 404, "item-not-found")
    back = await api.client.put("/items/item-7", json={"title": "Lamp"})
    assert (back.status_code, back.json()["code"]) == (201, code)
    assert "item-7" in ids(await api.client.get("/popular?n=100"))


async def test_events_of_deleted_items_are_rejected_and_of_hidden_ones_recorded(api: RunningApp, cache: Cache) -> None:
    await api.client.delete("/items/item-7")
    await api.client.patch("/items/item-8", json={"hidden": True})
    events = [{"user_id": "ann", "item_id": f"item-{item}"} for item in (7, 8)]
    answer = (await api.client.post("/events", json=events)).json()
    assert (answer["accepted"], answer["rejected"]) == (
        1,
        [{"row": 0, "item_id": "item-7", "reason": "unknown_item"}],
    )
    assert cache.history("ann") == ["item-8"]


async def test_hidden_item_still_has_items_near_it(api: RunningApp) -> None:
    await api.client.patch("/items/item-7", json={"hidden": True})
    near = ids(await api.client.get("/similar/item-7?n=100"))
    assert len(near) == 50 - len(OUT_OF_STOCK) - 1


async def test_rank_says_what_it_withholds_and_why(settings: Settings, bundle: Bundle, tmp_path: Path) -> None:
    with plain_decoder(bundle.item_codes.codes_NL, tmp_path / "decoder.sock") as decoder:
        async with running(settings.model_copy(update={"decoder_address": decoder.address})) as api:
            await api.client.patch("/items/item-1", json={"hidden": True})
            await api.client.delete("/items/item-2")
            asked: dict[str, Any] = {
                "history": ["item-9"],
                "items": ["item-1", "item-2", "item-3", "item-4", "nothing"],
            }
            answer = (await api.client.post("/rank", json=asked)).json()
            assert ids_of(answer) == ["item-4"]
            withheld = {"item-1": "hidden", "item-2": "deleted", "item-3": "out_of_stock"}
            assert {item["item_id"]: item["reason"] for item in answer["withheld"]} == withheld
            assert answer["unknown"] == ["nothing"]
            with_all_stock = (await api.client.post("/rank", json=asked | {"in_stock": False})).json()
            assert sorted(ids_of(with_all_stock)) == ["item-3", "item-4"]


async def test_item_hidden_while_its_list_is_decoded_is_not_in_the_list(
    settings: Settings, bundle: Bundle, tmp_path: Path, cache: Cache
) -> None:
    cache.put_history("ann", [20])
    with plain_decoder(bundle.item_codes.codes_NL, tmp_path / "decoder.sock") as decoder:
        changed = {"decoder_address": decoder.address, "live_deadline_ms": 10_000}
        async with running(settings.model_copy(update=changed)) as api:
            decoder.delay_s = 0.5
            # The entry gives the first items, the decoder the rest.
            cache.put_entry("ann", [21, 22])
            asked = asyncio.create_task(api.client.get("/recommend/ann?n=6"))
            ranked = asyncio.create_task(
                api.client.post("/rank", json={"user_id": "ann", "items": ["item-19", "item-18"]})
            )
            await asyncio.sleep(0.2)
            assert len(decoder.asked) == 2
            for item in (21, 19):
                await api.client.patch(f"/items/item-{item}", json={"hidden": True})
            answer = await asked
            assert {"item-19", "item-21"} & set(ids(answer)) == set()
            assert len(ids(answer)) == 6
            assert ids(await ranked) == ["item-18"]


def ids_of(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


async def test_bulk_write_tells_which_rows_were_not_taken(api: RunningApp) -> None:
    rows = [
        {"item_id": "item-1", "title": "One", "price": 3},
        {"item_id": "item-1", "operation": "patch", "hidden": True},
        {"item_id": "nothing", "operation": "patch", "price": 3},
        {"item_id": "item-2", "operation": "delete"},
        {"item_id": "item-2", "operation": "patch", "price": 3},
    ]
    answer = (await api.client.post("/items", json=rows)).json()
    assert answer["accepted"] == 3
    assert [(one["row"], one["reason"]) for one in answer["rejected"]] == [(2, "unknown_item"), (4, "unknown_item")]
    item = (await api.client.get("/items/item-1")).json()
    assert (item["title"], item["price"], item["hidden"]) == ("One", 3, True)


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("PUT", "/items/item-1", {}),
        ("PUT", "/items/item-1", {"title": " "}),
        ("PUT", "/items/item-1", {"title": "x", "price": -1}),
        ("PUT", "/items/item-1", {"title": "x", "price": 1e39}),
        ("PUT", "/items/item-1", {"title": "x", "colour": "red"}),
        ("PUT", "/items/item-1", {"title": "x", "categories": ["a"] * 21}),
        ("PUT", "/items/item-1", {"title": "x", "attributes": {"a": 1}}),
        ("PATCH", "/items/item-1", {}),
        ("PATCH", "/items/item-1", {"title": None}),
        ("PATCH", "/items/item-1", {"hidden": None}),
        ("POST", "/items", []),
        ("POST", "/items", [{"item_id": "item-1"}]),
        ("POST", "/items", [{"item_id": "item-1", "operation": "patch"}]),
        ("POST", "/items", [{"item_id": "item-1", "operation": "delete", "price": 1}]),
        ("GET", "/items?n=0", None),
        ("GET", "/items?q=", None),
        ("GET", "/items/", None),
        ("DELETE", "/items/item-1?x=1", None),
    ],
)
async def test_what_makes_no_sense_changes_nothing(api: RunningApp, method: str, target: str, body: Any) -> None:
    assert_problem(await api.client.request(method, target, json=body), 422, "invalid-request")
    assert api.services.overlay.records == {}


async def test_catalogue_is_listed_page_by_page(api: RunningApp) -> None:
    await api.client.patch("/items/item-5", json={"hidden": True, "title": "A red LAMP"})
    await api.client.patch("/items/item-6", json={"title": "lampshade", "categories": ["light"]})
    assert ids(await api.client.get("/items?q=Lamp")) == ["item-6"]
    assert ids(await api.client.get("/items?q=Lamp&hidden=true")) == ["item-5", "item-6"]
    assert ids(await api.client.get("/items?category=light")) == ["item-6"]
    page = (await api.client.get("/items?n=4")).json()
    assert (ids_of(page), page["next"]) == (["item-0", "item-1", "item-2", "item-4"], "item-4")
    assert ids(await api.client.get("/items?n=2&cursor=item-4")) == ["item-6", "item-7"]
    assert ids(await api.client.get("/items?n=1&cursor=item-2&in_stock=false")) == ["item-3"]
    last = (await api.client.get("/items?n=5&cursor=item-47")).json()
    assert (ids_of(last), last["next"]) == (["item-48", "item-49"], None)
    assert_problem(await api.client.get("/items?cursor=nothing"), 404, "item-not-found")


async def test_so_many_items_may_change_and_no_more(settings: Settings) -> None:
    async with running(settings.model_copy(update={"overlay_items": 2})) as api:
        for item in (1, 2):
            assert (await api.client.patch(f"/items/item-{item}", json={"price": 1})).status_code == 200
        assert_problem(await api.client.patch("/items/item-3", json={"price": 1}), 507, "too-many-changed-items")
        assert_problem(await api.client.delete("/items/item-3"), 507, "too-many-changed-items")
        assert (await api.client.patch("/items/item-2", json={"price": 2})).status_code == 200
        rows = [{"item_id": f"item-{item}", "operation": "patch", "price": 4} for item in (3, 2)]
        answer = (await api.client.post("/items", json=rows)).json()
        assert [(one["row"], one["reason"]) for one in answer["rejected"]] == [(0, "too_many_changed_items")]


async def test_without_redis_writes_are_refused_and_the_last_known_state_holds(
    settings: Settings, stored: redis.Redis
) -> None:
    async with running(settings) as api:
        await api.client.patch("/items/item-7", json={"hidden": True})
        embedded_redis.stop(settings.home)
        for answer in (
            await api.client.put("/items/item-8", json={"title": "x"}),
            await api.client.patch("/items/item-8", json={"hidden": True}),
            await api.client.delete("/items/item-8"),
            await api.client.post("/items", json=[{"item_id": "item-8", "operation": "delete"}]),
        ):
            assert_problem(answer, 503, "storage-unavailable")
        shown = ids(await api.client.get("/popular?n=100"))
        assert "item-7" not in shown
        assert "item-8" in shown
        session = (await api.client.post("/recommend", json={"history": ["item-1"]})).json()
        assert session["degraded"], "whether items have changed is not known"
        embedded_redis.ensure_running(settings.home)
        deadline = time.monotonic() + 10
        while (await api.client.patch("/items/item-8", json={"hidden": True})).status_code != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert "item-8" not in ids(await api.client.get("/popular?n=100"))


async def test_keys_need_their_scope(settings: Settings) -> None:
    read, write = "r" * 16, "w" * 16
    with_keys = Settings(**settings.model_dump() | {"api_keys": f"read:{read},write:{write}"})
    async with running(with_keys) as api:
        assert (await api.client.get("/items", headers={"X-API-Key": read})).status_code == 200
        refused = await api.client.patch("/items/item-1", json={"price": 1}, headers={"X-API-Key": read})
        assert_problem(refused, 403, "scope-missing")
        assert_problem(await api.client.get("/items/item-1", headers={"X-API-Key": write}), 403, "scope-missing")
        assert (await api.client.delete("/items/item-1", headers={"X-API-Key": write})).status_code == 200
