"""An item nobody has heard of is put, has a code at once, and is recommended within seconds. With a real decoder."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from app import item_publishing
from app.encode_wire import unpack_vectors
from app.settings import Settings
from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import Keys
from model_store.text_encoder import TextEncoder, text_config
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.running_decoder import RunningDecoder, ready_decoder, settings_beside
from tests.app.test_problems import assert_problem
from tests.extended_bundle import extend
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.anyio

KEYS = Keys()
SOCKS = {"title": "Warm wool socks", "categories": ["socks"], "price": 9.5}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def bundle(store: Path) -> Bundle:
    return build_tiny_bundle(store, quantizer=True)


@pytest.fixture
async def decoder(store: Path, bundle: Bundle, tmp_path: Path) -> AsyncIterator[RunningDecoder]:
    async with ready_decoder(store, tmp_path / "decoder.sock") as decoder:
        yield decoder


@pytest.fixture
def settings(store: Path, bundle: Bundle, home: Path, decoder: RunningDecoder) -> Settings:
    return settings_beside(decoder, store, home, item_publish_delay_ms=300)


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def until_decodable(api: RunningApp, item_id: str) -> dict[str, Any]:
    async def is_decodable() -> bool:
        return bool((await api.client.get(f"/items/{item_id}")).json()["decodable"])

    await eventually(is_decodable)
    item: dict[str, Any] = (await api.client.get(f"/items/{item_id}")).json()
    return item


async def test_new_item_has_a_code_at_once_and_is_recommended_within_seconds(
    api: RunningApp, cache: Cache, store: Path
) -> None:
    cache.put_history("ann", [20, 30])
    put = await api.client.put("/items/socks", json=SOCKS)
    assert put.status_code == 201
    assert put.json() | SOCKS == put.json()
    assert put.json()["code"].startswith("<u_")
    assert not put.json()["decodable"]
    answer = await api.client.post("/events", json=[{"user_id": "bob", "item_id": "socks"}])
    assert answer.json()["accepted"] == 1

    item = await until_decodable(api, "socks")
    assert item["code"] == put.json()["code"]
    only_new = await api.client.get("/recommend/ann?category=socks&strict=true&n=3")
    assert (only_new.json()["source"], ids(only_new)) == ("live", ["socks"])
    assert only_new.json()["items"][0]["code"] == item["code"]
    assert only_new.json()["model_version"] == "tiny-1+1"
    assert "socks" in ids(await api.client.get("/similar/item-5?n=100"))
    assert "socks" in ids(await api.client.get("/popular?n=100"))
    assert ModelStore(store).active() == "tiny-1+1"
    assert ModelStore(store).open().manifest.metrics["extension"]["made_by"] == "service"

    await api.client.delete("/items/socks")
    assert ids(await api.client.get("/recommend/ann?category=socks&strict=true&n=3")) == []
    back = await api.client.put("/items/socks", json=SOCKS)
    assert (back.status_code, back.json()["code"], back.json()["decodable"]) == (201, item["code"], True)


async def test_alike_items_get_codes_of_their_own_from_whichever_worker(
    settings: Settings, stored: redis.Redis
) -> None:
    patient = settings.model_copy(update={"item_publish_delay_ms": 600_000})
    async with running(patient) as first, running(patient) as second:
        puts = [
            worker.client.put(f"/items/socks-{number}", json=SOCKS) for number in range(6) for worker in (first, second)
        ]
        answers = await asyncio.gather(*puts)
        codes = {answer.json()["item_id"]: set[str]() for answer in answers}
        for answer in answers:
            codes[answer.json()["item_id"]].add(answer.json()["code"])
        assert all(len(found) == 1 for found in codes.values()), "one item, one code, whoever was asked"
        assert len(set.union(*codes.values())) == 6
        assert all(0 < stored.ttl(key) <= 3600 for key in stored.scan_iter("tessera:items:code:*"))


async def test_many_new_items_of_one_call_are_one_version(api: RunningApp, store: Path) -> None:
    rows = [{"item_id": f"new-{number}", "title": f"Red chair {number}"} for number in range(30)]
    rows[3] |= {"in_stock": False}
    answer = (await api.client.post("/items", json=rows)).json()
    assert answer == {"accepted": 30, "rejected": []}
    await until_decodable(api, "new-29")
    assert set(ModelStore(store).versions()) == {"tiny-1", "tiny-1+1"}
    shown = set(ids(await api.client.get("/popular?n=100")))
    assert {f"new-{number}" for number in range(30)} - shown == {"new-3"}


async def test_without_a_decoder_a_new_item_is_refused_and_nothing_is_stored(settings: Settings) -> None:
    async with running(settings.model_copy(update={"decoder_address": "none"})) as api:
        refused = await api.client.put("/items/socks", json=SOCKS)
        assert_problem(refused, 503, "new-item-unavailable")
        assert "no_decoder" in refused.json()["detail"]
        assert "tessera items add" in refused.json()["detail"]
        bulk = [{"item_id": "socks", "title": "Socks"}, {"item_id": "item-1", "title": "One"}]
        answer = (await api.client.post("/items", json=bulk)).json()
        assert answer["accepted"] == 1
        assert answer["rejected"] == [{"row": 0, "item_id": "socks", "reason": "new_item_unavailable"}]
        assert list(api.services.overlay.records) == ["item-1"]
        assert_problem(await api.client.get("/items/socks"), 404, "item-not-found")


async def test_store_that_cannot_be_written_keeps_the_item_and_says_why(
    settings: Settings, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(item_publishing, "_RETRY_S", 0.2)
    # Where versions are prepared there is something else in the way, which holds root up too.
    blocked = store / "tiny-1+1"
    blocked.write_text("in the way")
    async with running(settings) as api:
        assert (await api.client.put("/items/socks", json=SOCKS)).status_code == 201

        async def says_why() -> bool:
            why = (await api.client.get("/items/socks")).json()["not_decodable"]
            return "cannot be" in str(why)

        await eventually(says_why)
        assert "new items cannot be published" in caplog.text
        assert 'tessera_item_publishes_total{outcome="failed"}' in (await api.client.get("/metrics")).text
        assert (await api.client.get("/recommend/ann")).status_code == 200
        blocked.unlink()
        await until_decodable(api, "socks")


async def test_another_line_gives_the_item_a_place_of_its_own(
    api: RunningApp, store: Path, stored: redis.Redis, decoder: RunningDecoder
) -> None:
    await api.client.put("/items/socks", json=SOCKS)
    await until_decodable(api, "socks")
    build_tiny_bundle(store, version="other", seed=3, quantizer=True)
    stored.set(KEYS.active, "other")

    async def is_served() -> bool:
        answer = (await api.client.get("/recommend/nobody?category=socks")).json()
        return answer["model_version"] == "other+1" and [item["item_id"] for item in answer["items"]] == ["socks"]

    await eventually(is_served)
    assert api.services.overlay.records["socks"]["place"]["line"] == "other"


async def test_code_that_a_version_beside_has_given_away_is_replaced(
    settings: Settings, store: Path, bundle: Bundle
) -> None:
    patient = settings.model_copy(update={"item_publish_delay_ms": 600_000})
    async with running(patient) as api:
        first = (await api.client.put("/items/socks", json=SOCKS)).json()["code"]
        code = api.services.overlay.records["socks"]["place"]["code"]
    beside = extend(store, bundle, items=1)
    codes = np.load(beside.path / "item_codes.npy")
    codes[-1] = code
    np.save(beside.path / "item_codes.npy", codes)
    async with running(settings) as api:
        item = await until_decodable(api, "socks")
        assert item["code"] != first


async def test_older_versions_that_the_service_made_go_and_others_stay(api: RunningApp, store: Path) -> None:
    for number in range(5):
        await api.client.put(f"/items/new-{number}", json={"title": f"Red chair {number}"})
        await until_decodable(api, f"new-{number}")

    async def only_the_newest_are_left() -> bool:
        return ModelStore(store).versions() == ["tiny-1", "tiny-1+3", "tiny-1+4", "tiny-1+5"]

    await eventually(only_the_newest_are_left)
    assert not (store / "PREVIOUS").exists(), "a rollback does not go back to one of them"
    assert {f"new-{number}" for number in range(5)} <= set(ids(await api.client.get("/popular?n=100")))


async def test_item_that_gorse_inserts_is_the_latest_within_seconds(api: RunningApp, cache: Cache) -> None:
    item = {"ItemId": "socks", "Categories": ["socks"], "Timestamp": "2026-01-02T00:00:00Z", "Comment": "Warm socks"}
    for _ in range(2):
        assert (await api.client.post("/api/item", json=item)).json() == {"RowAffected": 1}
    assert (await api.client.get("/api/item/socks")).json() == item | {"IsHidden": False, "Labels": None}
    await until_decodable(api, "socks")
    seconds = 1767312000.0
    assert (await api.client.get("/api/latest?n=1")).json() == [{"Id": "socks", "Score": seconds}]
    assert (await api.client.get("/api/recommend/ann?category=socks&n=3")).json() == ["socks"]


async def test_decoder_encodes_texts_as_training_does(decoder: RunningDecoder, bundle: Bundle) -> None:
    documents = ["Warm wool socks", "A red garden chair", "Warm wool socks"]
    body = {"version": "tiny-1", "documents": documents, "deadline_ms": 60_000}
    answer = (await decoder.client.post("/encode", json=body, timeout=60)).json()
    vectors = unpack_vectors(answer["vectors"], answer["size"])
    expected = TextEncoder(text_config(bundle)).encode(documents)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"documents": []}, 422),
        ({"documents": ["x"] * 1001}, 422),
        ({"documents": "x"}, 422),
        ({"deadline_ms": 0}, 422),
        ({"other": 1}, 422),
        ({"version": "nobody"}, 409),
        ({"version": "../tiny-1"}, 409),
    ],
)
async def test_decoder_refuses_texts_that_make_no_sense(
    decoder: RunningDecoder, change: dict[str, Any], status: int
) -> None:
    body: dict[str, Any] = {"version": "tiny-1", "documents": ["x"], "deadline_ms": 1000}
    answer = await decoder.client.post("/encode", json=body | change)
    assert answer.status_code == answer.json()["status"] == status
