"""Answers from a list that a ranker has reordered: its order, and the scores that the generator gave."""

import time

import numpy as np
import pytest

from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry, history_digest, ranked
from tests.app.conftest import Cache, RunningApp

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("explain", [None, "full"])
async def test_a_ranked_list_keeps_its_order_and_each_item_its_score(
    api: RunningApp, cache: Cache, bundle: Bundle, explain: str | None
) -> None:
    items, scores = [9, 8, 20, 6], [-2.0, -0.5, -1.0, -3.5]
    cache.put_history("ann", [30])
    digest = history_digest(cache.redis.lrange(cache.keys.history("ann"), 0, -1))
    codes = bundle.item_codes.codes_NL[np.array(items)]
    entry = CacheEntry(codes, np.array(scores, np.float16), digest, int(time.time()), ranked("torch"))
    cache.put_packed("ann", entry.pack())
    body = (await api.client.get("/recommend/ann", params={"n": 4} | ({"explain": explain} if explain else {}))).json()
    assert [one["item_id"] for one in body["items"]] == [f"item-{item}" for item in items]
    assert [one["score"] for one in body["items"]] == scores
    assert [one["rank"] for one in body["items"]] == [1, 2, 3, 4]
    assert (body["source"], body["degraded"]) == ("cache", False)
    if explain:
        assert body["explain"]["entry_engine"] == "torch+ranker"
        assert [one["log_probability"] for one in body["explain"]["items"]] == scores
