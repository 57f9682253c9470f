"""Queries and `within=cache` over HTTP with the real decoder process: answers are those of the model, item by item."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from app.decoder.settings import DecoderSettings
from app.settings import Settings
from model_store.bundle import Bundle
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.running_decoder import running_decoder, until_ready
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.anyio

ITEMS = 60
CACHED = [50, 3, 17, 42, 8, 29, 11, 36]
QUERY = "warm wool socks"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), items=ITEMS)


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> TorchDecoder:
    return TorchDecoder.from_bundle(bundle, device="cpu")


@pytest.fixture
def store(bundle: Bundle) -> Path:
    return bundle.path.parent


@pytest.fixture
async def api(settings: Settings, stored: redis.Redis, bundle: Bundle, tmp_path: Path) -> AsyncIterator[RunningApp]:
    decoding = DecoderSettings(store=settings.store, beam_width=ITEMS, threads=1)
    async with running_decoder(decoding, tmp_path / "decoder.sock") as decoder:
        await until_ready(decoder)
        changes = {"decoder_address": decoder.address, "beam_width": ITEMS, "live_deadline_ms": 20_000}
        async with running(settings.model_copy(update=changes)) as app:
            yield app


def best(reference: TorchDecoder, n: int, **asked: Any) -> list[tuple[str, float]]:
    arrays = {name: np.array(asked.pop(name, []), dtype=np.int32) for name in ("history", "excluded")}
    candidates = asked.pop("candidates", None)
    if candidates is not None:
        arrays["candidates"] = np.array(candidates, dtype=np.int32)
    (decoded,) = reference.decode([DecodeRequest(n=n, beam_width=ITEMS, **arrays, **asked)])
    return [(f"item-{one.item}", one.score) for one in decoded]


def check(answer: dict[str, Any], expected: list[tuple[str, float]], reason: str = "live") -> None:
    assert (answer["source"], answer["degraded"], answer["not_applied"]) == ("live", False, {})
    assert [item["item_id"] for item in answer["items"]] == [item for item, _ in expected]
    assert [item["score"] for item in answer["items"]] == pytest.approx([score for _, score in expected], abs=1e-3)
    assert {item["reason"] for item in answer["items"]} == {reason}


async def test_query_of_a_user_a_session_and_nobody(api: RunningApp, cache: Cache, reference: TorchDecoder) -> None:
    cache.put_history("ann", [1, 2, 3])
    cache.put_entry("ann", CACHED)
    known = best(reference, 6, history=[1, 2, 3], excluded=[1, 2, 3], query=QUERY)
    check((await api.client.get("/recommend/ann", params={"q": QUERY, "n": 6})).json(), known)
    check((await api.client.post("/recommend", json={"user_id": "ann", "q": QUERY, "n": 6})).json(), known)
    session = {"history": ["item-1", "item-2", "item-3"], "q": QUERY, "n": 6}
    check((await api.client.post("/recommend", json=session)).json(), known)
    nobody = best(reference, 6, query=QUERY)
    check((await api.client.post("/recommend", json={"q": QUERY, "n": 6})).json(), nobody)
    check((await api.client.get("/recommend/stranger", params={"q": QUERY, "n": 6})).json(), nobody)
    assert [item for item, _ in known] != [item for item, _ in nobody]
    body = {"user_ids": ["ann", "stranger"], "q": QUERY, "n": 6}
    both = (await api.client.post("/recommend/batch", json=body)).json()["answers"]
    for answer, expected in zip(both, (known, nobody), strict=True):
        check(answer, expected)


async def test_query_under_a_filter_in_pages(api: RunningApp, cache: Cache, reference: TorchDecoder) -> None:
    cache.put_history("ann", [1, 2, 3])
    toys = [i for i in range(ITEMS) if "Toys" in cache.bundle.catalog.categories[i]]
    hidden = [1, 2, 3, toys[0], *(i for i in range(ITEMS) if i not in toys)]
    expected = best(reference, 9, history=[1, 2, 3], excluded=hidden, query=QUERY)
    for offset in (0, 3, 6):
        asked = {"q": QUERY, "category": "Toys", "exclude": f"item-{toys[0]}", "n": 3, "offset": offset}
        answer = (await api.client.get("/recommend/ann", params=asked)).json()
        check(answer, expected[offset : offset + 3])
        assert [item["rank"] for item in answer["items"]] == [offset + 1, offset + 2, offset + 3]


async def test_what_looks_like_tokens_is_plain_text(api: RunningApp, reference: TorchDecoder) -> None:
    spelled = "socks <u_3> <|answer|> <|history|>"
    answer = (await api.client.post("/recommend", json={"q": spelled, "n": 5})).json()
    check(answer, best(reference, 5, query="socks unheard-of unknown nonsense"))


async def test_text_in_any_alphabet_is_taken(api: RunningApp) -> None:
    for text in ("зимние носки", "羊毛の靴下", "👟🧦", "a" * 500, "socks\x00\x1b[31m", '"}],'):
        answer = await api.client.get("/recommend/ann", params={"q": text, "n": 3})
        assert (answer.status_code, answer.json()["source"], len(ids(answer))) == (200, "live", 3)


@pytest.mark.parametrize("text", ["", "   ", "\t\n", "\u2003\u00a0", "a" * 501])
async def test_no_query_at_all_and_too_long_a_one_are_refused(api: RunningApp, text: str) -> None:
    assert (await api.client.get("/recommend/ann", params={"q": text})).status_code == 422
    assert (await api.client.post("/recommend", json={"user_id": "ann", "q": text})).status_code == 422
    assert (await api.client.post("/recommend", json={"q": text})).status_code == 422


async def test_text_that_no_encoding_can_hold_is_refused(api: RunningApp) -> None:
    answer = await api.client.post(
        "/recommend", content=b'{"q": "\\ud800"}', headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422


async def test_cached_items_are_ranked_by_the_scores_a_full_decode_would_give(
    api: RunningApp, cache: Cache, reference: TorchDecoder
) -> None:
    cache.put_entry("ann", CACHED)
    cache.put_history("ann", [1, 2, 8])
    cache.mark_dirty("ann")
    answer = (await api.client.get("/recommend/ann?within=cache&n=7")).json()
    check(answer, best(reference, 7, history=[1, 2, 8], excluded=[1, 2, 8], candidates=CACHED), "reranked")
    whole = dict(best(reference, ITEMS, history=[1, 2, 8], excluded=[1, 2, 8]))
    assert [item["score"] for item in answer["items"]] == pytest.approx(
        [whole[item["item_id"]] for item in answer["items"]], abs=1e-3
    )
    assert cache.is_dirty("ann")
    body = {"user_id": "ann", "within": "cache", "q": QUERY, "n": 3}
    answer = (await api.client.post("/recommend", json=body)).json()
    check(answer, best(reference, 3, history=[1, 2, 8], excluded=[8], candidates=CACHED, query=QUERY), "reranked")


async def test_allowed_items_are_ranked_by_the_scores_a_full_decode_would_give(
    api: RunningApp, cache: Cache, reference: TorchDecoder
) -> None:
    cache.put_history("ann", [1, 2, 8])
    asked: dict[str, Any] = {"only": [f"item-{item}" for item in CACHED], "n": 20}
    answer = (await api.client.get("/recommend/ann", params=asked)).json()
    check(answer, best(reference, 20, history=[1, 2, 8], excluded=[8], candidates=CACHED))
    assert len(answer["items"]) == len(CACHED) - 1
    answer = (await api.client.post("/recommend", json=asked | {"q": QUERY})).json()
    check(answer, best(reference, 20, candidates=CACHED, query=QUERY))


@pytest.mark.parametrize(("levels", "n"), [(1, 12), (2, 30)])
async def test_capped_pages_are_those_of_a_capped_decode(
    api: RunningApp, bundle: Bundle, reference: TorchDecoder, levels: int, n: int
) -> None:
    cap: dict[str, Any] = {"max_per_prefix": 1, "prefix_levels": levels}
    for query in (None, QUERY):
        seen = {"history": [1, 2, 8], "excluded": [1, 2, 8], "query": query}
        expected = best(reference, n, **seen, **cap)
        assert expected != best(reference, n, **seen)
        indices = [int(item.removeprefix("item-")) for item, _ in expected]
        assert len(np.unique(bundle.item_codes.codes_NL[indices, :levels], axis=0)) == n
        for offset in range(0, n, n // 3):
            body = {"history": ["item-1", "item-2", "item-8"], "q": query, "n": n // 3, "offset": offset} | cap
            answer = (await api.client.post("/recommend", json=body)).json()
            check(answer, expected[offset : offset + n // 3])


async def test_given_items_are_ranked_by_the_scores_a_full_decode_would_give(
    api: RunningApp, cache: Cache, reference: TorchDecoder
) -> None:
    cache.put_history("ann", [1, 2, 8])
    sent = [*CACHED, 1]
    for query in (None, QUERY):
        asked = {"user_id": "ann", "items": [f"item-{item}" for item in sent]} | ({"q": query} if query else {})
        items = (await api.client.post("/rank", json=asked)).json()["items"]
        expected = best(reference, len(sent), history=[1, 2, 8], candidates=sent, query=query)
        assert [item["item_id"] for item in items] == [item for item, _ in expected]
        whole = dict(best(reference, ITEMS, history=[1, 2, 8], query=query))
        assert [item["score"] for item in items] == pytest.approx([whole[one["item_id"]] for one in items], abs=1e-3)
