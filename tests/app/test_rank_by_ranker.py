"""`POST /rank` by a version's ranker, over HTTP to a served API and from there to a decoder process's application."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import redis

from app.decoder.settings import DecoderSettings
from app.settings import Settings
from model_store.bundle import Bundle, ModelStore
from model_store.rankers.ranker import RankRequest
from model_store.rankers.ranker_files import load_ranker
from model_store.rankers.user_keys import user_key
from tests.app.conftest import Cache, RunningApp, running
from tests.app.running_decoder import RunningDecoder, running_decoder, until_ready
from tests.app.running_server import served
from tests.ranked_bundle import publish_with_ranker
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.anyio

ITEMS = ["item-3", "item-59", "item-0", "item-17", "item-30"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def bundle(store: Path) -> Bundle:
    base = build_tiny_bundle(store, items=60)
    ranked = publish_with_ranker(store, base)
    ModelStore(store).activate(ranked.version)
    return ranked


@pytest.fixture
async def decoder(store: Path, bundle: Bundle, tmp_path: Path) -> AsyncIterator[RunningDecoder]:
    settings = DecoderSettings(store=store, batch=4, beam_width=10, active_poll_ms=50)
    async with running_decoder(settings, tmp_path / "decoder.sock") as decoder:
        await until_ready(decoder)
        yield decoder


@pytest.fixture
def with_decoder(settings: Settings, decoder: RunningDecoder) -> Settings:
    patient = {"live_deadline_ms": 20_000, "rank_deadline_ms": 20_000, "ranker_max_items": 50}
    return settings.model_copy(update={"decoder_address": decoder.address, **patient})


@pytest.fixture
async def api(with_decoder: Settings, stored: redis.Redis) -> AsyncIterator[RunningApp]:
    async with running(with_decoder) as app:
        yield app


def expected(bundle: Bundle, history: list[int], user_id: str | None) -> list[float]:
    assert bundle.ranker_path is not None
    request = RankRequest(
        history=np.array(history, dtype=np.int32),
        candidates=np.array([int(item.removeprefix("item-")) for item in ITEMS], dtype=np.int32),
        user_key=None if user_id is None else user_key(user_id),
    )
    scores: list[float] = load_ranker(bundle.ranker_path, bundle.catalog).rank([request])[0].tolist()
    return scores


async def test_a_served_api_ranks_by_the_bundles_ranker_and_names_it(
    with_decoder: Settings, cache: Cache, bundle: Bundle
) -> None:
    cache.put_history("user-3", [4, 8, 15])

    def ask() -> list[dict[str, object]]:
        with served(with_decoder, 1) as client:
            return [
                client.post("/rank", json={**whose, "items": [*ITEMS, "item-nowhere"]}).raise_for_status().json()
                for whose in ({"user_id": "user-3"}, {"history": ["item-4", "item-8", "item-15"]})
            ]

    for answer, user_id in zip(await asyncio.to_thread(ask), ("user-3", None), strict=True):
        scores = dict(zip(ITEMS, expected(bundle, [4, 8, 15], user_id), strict=True))
        order = sorted(ITEMS, key=lambda item: -scores[item])
        assert [item["item_id"] for item in answer["items"]] == order  # type: ignore[attr-defined]
        found = [item["score"] for item in answer["items"]]  # type: ignore[attr-defined]
        assert found == pytest.approx([scores[item] for item in order], abs=1e-4)
        assert (answer["ranker"], answer["unknown"]) == ("sella-small", ["item-nowhere"])
        assert answer["model_version"] == bundle.version == "tiny-1+1"


async def test_codes_answer_where_they_are_asked_for_or_words_are(api: RunningApp) -> None:
    for how in ({"by": "codes"}, {"q": "socks"}):
        answer = (await api.client.post("/rank", json={"history": ["item-4"], "items": ITEMS, **how})).json()
        assert answer["ranker"] is None
        assert all(item["score"] < 0 for item in answer["items"])


async def test_a_version_without_a_ranker_says_so_where_one_is_asked_for(
    with_decoder: Settings, store: Path, bundle: Bundle, stored: redis.Redis
) -> None:
    ModelStore(store).activate("tiny-1")
    async with running(with_decoder) as app:
        answer = await app.client.post("/rank", json={"history": ["item-4"], "items": ITEMS})
        assert (answer.status_code, answer.json()["ranker"]) == (200, None)
        refused = await app.client.post("/rank", json={"history": ["item-4"], "items": ITEMS, "by": "ranker"})
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:tessera:problem:no-ranker")


async def test_what_a_ranker_cannot_do_is_said(api: RunningApp) -> None:
    def asked(**how: object) -> dict[str, object]:
        return {"history": ["item-4"], "items": ITEMS} | how

    many = [f"item-{number}" for number in range(51)]
    cases: list[tuple[dict[str, object], str, str]] = [
        (asked(q="socks", by="ranker"), "no-ranker", "read no query"),
        (asked(items=many), "too-many-to-rank", "at most 50 items at once, these are 51"),
        (asked(history=["item-nowhere"]), "nothing-to-rank-by", "record events"),
        (asked(by="oracle"), "invalid-request", ""),
    ]
    for body, name, said in cases:
        answer = await api.client.post("/rank", json=body)
        assert (answer.status_code, answer.json()["type"]) == (422, f"urn:tessera:problem:{name}")
        assert said in answer.json()["detail"]
    assert len((await api.client.post("/rank", json=asked(items=many, by="codes"))).json()["items"]) == 51
    # It is what must be scored that counts, not what was sent.
    unknown = [*ITEMS, *(f"lost-{number}" for number in range(60))]
    assert (await api.client.post("/rank", json=asked(items=unknown))).status_code == 200


async def test_the_active_versions_ranker_is_loaded_before_anybody_asks(
    decoder: RunningDecoder, bundle: Bundle
) -> None:
    async with asyncio.timeout(10):
        while not decoder.service._ranking._loaded:
            await asyncio.sleep(0.02)


async def test_the_decoder_says_what_is_wrong_with_a_request(decoder: RunningDecoder, bundle: Bundle) -> None:
    def body(**changes: object) -> dict[str, object]:
        return {"version": bundle.version, "history": [1], "candidates": [2, 3], "deadline_ms": 20_000} | changes

    cases: list[tuple[dict[str, object], int, str]] = [
        (body(version="tiny-1"), 409, "version tiny-1 has no ranker"),
        (body(version="nowhere"), 409, "no such file"),
        (body(candidates=[60]), 422, "candidates: item indices of version tiny-1+1 are 0 to 59"),
        (body(history=[-1]), 422, "history: item indices"),
        (body(candidates=[]), 422, "candidates"),
        (body(candidates=[1] * 1001), 422, "candidates"),
    ]
    for sent, status, said in cases:
        answer = await decoder.client.post("/rank", json=sent)
        assert (answer.status_code, said in answer.text) == (status, True), answer.text
    good = (await decoder.client.post("/rank", json=body())).json()
    assert (good["ranker"], len(good["scores"])) == ("sella-small", 2)


async def test_a_busy_or_missing_decoder_is_a_503(
    with_decoder: Settings, decoder: RunningDecoder, stored: redis.Redis
) -> None:
    async def status_of(settings: Settings, while_busy: bool) -> tuple[int, str]:
        async with running(settings) as app:
            if while_busy:
                decoder.service._ranking._thread.submit(busy.wait, 10)
            answer: httpx.Response = await app.client.post("/rank", json={"history": ["item-4"], "items": ITEMS})
            return answer.status_code, answer.json()["detail"]

    busy = threading.Event()
    cases: list[tuple[Callable[[], Settings], bool, str]] = [
        (lambda: with_decoder.model_copy(update={"rank_deadline_ms": 50}), True, "deadline"),
        (lambda: with_decoder.model_copy(update={"decoder_address": None}), False, "no_decoder"),
        (lambda: with_decoder.model_copy(update={"decoder_address": "unix:///nowhere"}), False, "failed"),
    ]
    for settings, while_busy, reason in cases:
        status, detail = await status_of(settings(), while_busy)
        busy.set()
        assert (status, reason in detail) == (503, True), detail


async def test_a_broken_ranker_does_not_touch_what_the_generator_does(
    with_decoder: Settings, decoder: RunningDecoder, store: Path, bundle: Bundle, stored: redis.Redis
) -> None:
    broken = publish_with_ranker(store, bundle, seed=1)
    weights = broken.path / "ranker" / "modules.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    ModelStore(store).activate(broken.version, skip=("ranker/",))
    async with running(with_decoder) as app:
        answer = await app.client.post("/rank", json={"history": ["item-4"], "items": ITEMS})
        assert (answer.status_code, "version" in answer.json()["detail"]) == (503, True)
        codes = await app.client.post("/rank", json={"history": ["item-4"], "items": ITEMS, "by": "codes"})
        assert codes.status_code == 200
