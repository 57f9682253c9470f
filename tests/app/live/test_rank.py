"""`POST /rank`: every item that was sent, once, in the decoder's order; and what is said when there is none."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, running
from tests.app.light_bundle import OUT_OF_STOCK, publish_light_bundle
from tests.app.plain_decoder import PlainDecoder

pytestmark = pytest.mark.anyio


async def test_items_come_back_once_each_by_the_users_history(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    cache.put_history("ann", [5, 20])
    sent = ["item-1", "item-30", f"item-{OUT_OF_STOCK[0]}", "item-20", "item-30", "item-nowhere", "item-18"]
    answer = await api.client.post("/rank", json={"user_id": "ann", "items": sent, "in_stock": False})
    body = answer.json()
    assert answer.status_code == 200
    # Seen items too, and here those that are out of stock: the caller has chosen.
    assert [item["item_id"] for item in body["items"]] == ["item-20", "item-18", "item-30", "item-3", "item-1"]
    assert [item["rank"] for item in body["items"]] == [1, 2, 3, 4, 5]
    scores = [decoder.score(item, [20]) for item in (20, 18, 30, 3, 1)]
    assert [item["score"] for item in body["items"]] == pytest.approx(scores)
    assert all(item["code"].startswith("<u_") for item in body["items"])
    assert (body["unknown"], body["user_id"], body["model_version"]) == (["item-nowhere"], "ann", "light-1")


async def test_sessions_and_queries_may_ask_too(api: RunningApp) -> None:
    items = ["item-1", "item-40", "item-12"]
    for whose, expected in (
        ({"history": ["item-3", "item-13"]}, ["item-12", "item-1", "item-40"]),
        ({"q": "socks 39"}, ["item-40", "item-12", "item-1"]),
        ({"history": ["item-3"], "q": "socks 39"}, ["item-40", "item-12", "item-1"]),
        ({"user_id": "stranger", "q": "socks 2"}, ["item-1", "item-12", "item-40"]),
    ):
        answer = (await api.client.post("/rank", json={**whose, "items": items})).json()
        assert [item["item_id"] for item in answer["items"]] == expected, whose


async def test_items_that_nobody_knows_are_only_named(api: RunningApp, decoder: PlainDecoder) -> None:
    answer = (await api.client.post("/rank", json={"history": ["item-1"], "items": ["a", "b", "a"]})).json()
    assert (answer["items"], answer["unknown"]) == ([], ["a", "b"])
    assert decoder.asked == []


async def test_a_thousand_items_are_ranked_and_more_refused(api: RunningApp, cache: Cache) -> None:
    everything = [f"item-{item}" for item in range(1000)]
    answer = (await api.client.post("/rank", json={"history": ["item-1"], "items": everything})).json()
    assert len(answer["items"]) == len(cache.bundle.catalog) - len(OUT_OF_STOCK)
    assert len(answer["items"]) + len(answer["withheld"]) + len(answer["unknown"]) == 1000
    for items in ([*everything, "one-more"], []):
        refused = await api.client.post("/rank", json={"history": ["item-1"], "items": items})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["location"] == ["body", "items"]


@pytest.mark.parametrize(
    "whose", [{"user_id": "stranger"}, {"history": []}, {"history": ["item-nowhere"]}], ids=lambda whose: str(whose)
)
async def test_without_anything_to_rank_by_it_says_so(api: RunningApp, whose: dict[str, object]) -> None:
    answer = await api.client.post("/rank", json={**whose, "items": ["item-1"]})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tessera:problem:nothing-to-rank-by")


async def test_whose_ranking_it_is_must_be_said_once(api: RunningApp) -> None:
    for whose in ({}, {"user_id": "ann", "history": ["item-1"]}):
        answer = await api.client.post("/rank", json={**whose, "items": ["item-1"]})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:tessera:problem:invalid-request")


async def test_a_silent_decoder_is_a_503_and_not_another_order(
    api: RunningApp, decoder: PlainDecoder, settings: Settings
) -> None:
    decoder.status = 429
    answer = await api.client.post("/rank", json={"history": ["item-1"], "items": ["item-2"]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "queue_full" in answer.json()["detail"]
    async with running(settings.model_copy(update={"decoder_address": None})) as without:
        answer = await without.client.post("/rank", json={"history": ["item-1"], "items": ["item-2"]})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:tessera:problem:ranking-unavailable")
    assert "no_decoder" in answer.json()["detail"]


async def test_without_redis_sessions_are_ranked_and_users_are_not(
    settings: Settings, cache: Cache, decoder: PlainDecoder
) -> None:
    nowhere = {"decoder_address": decoder.address, "redis_url": SecretStr("unix:///nowhere/redis.sock")}
    async with running(settings.model_copy(update=nowhere)) as app:
        session = await app.client.post("/rank", json={"history": ["item-1"], "items": ["item-2"]})
        user = await app.client.post("/rank", json={"user_id": "ann", "items": ["item-2"]})
    assert session.status_code == 200
    assert (user.status_code, user.json()["type"]) == (503, "urn:tessera:problem:storage-unavailable")


async def test_a_version_without_queries_says_so(
    settings: Settings, decoder: PlainDecoder, cache: Cache, tmp_path: Path
) -> None:
    publish_light_bundle(tmp_path / "store", tasks=())
    changes = {"decoder_address": decoder.address, "store": tmp_path / "store"}
    async with running(settings.model_copy(update=changes)) as app:
        answer = await app.client.post("/rank", json={"q": "socks", "items": ["item-2"]})
    assert (answer.status_code, answer.json()["type"]) == (501, "urn:tessera:problem:query-not-supported")
