"""Popular items of a window follow its events, and nothing else."""

import time
from collections import Counter

import pytest
import redis

from app import embedded_redis
from app.popular_windows import MAX_BUCKET_ITEMS, buckets_of
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.light_bundle import OUT_OF_STOCK

pytestmark = pytest.mark.anyio

HOUR_S, DAY_S = 3600, 86_400


async def happened(api: RunningApp, counts: dict[int, int], *, age_s: float = 0, kind: str = "view") -> None:
    at = time.time() - age_s
    events = [
        {"user_id": f"u{number}", "item_id": f"item-{item}", "type": kind, "timestamp": at}
        for item, times in counts.items()
        for number in range(times)
    ]
    assert (await api.client.post("/events", json=events)).is_success
    await api.services.popular_windows.flush()


async def test_a_window_is_ranked_by_its_events(api: RunningApp) -> None:
    await happened(api, {5: 2, 6: 4, 7: 3})
    await happened(api, {8: 9}, age_s=3 * HOUR_S)
    await happened(api, {9: 12}, age_s=3 * DAY_S)
    await happened(api, {10: 20}, age_s=20 * DAY_S)
    await happened(api, {11: 40}, age_s=60 * DAY_S)
    shown = {
        window: ids(await api.client.get(f"/popular?window={window}&n=100")) for window in ("1h", "24h", "7d", "30d")
    }
    hour = ["item-6", "item-7", "item-5"]
    assert shown["1h"] == hour
    assert shown["24h"] == ["item-8", *hour]
    assert shown["7d"] == ["item-9", "item-8", *hour]
    assert shown["30d"] == ["item-10", "item-9", "item-8", *hour]
    body = (await api.client.get("/popular?window=24h&n=1&offset=1")).json()
    assert body["window"] == "24h"
    assert (body["items"][0]["item_id"], body["items"][0]["rank"], body["items"][0]["score"]) == ("item-6", 2, 4)


async def test_the_filter_and_the_user_hold_within_a_window(api: RunningApp, bundle: Bundle) -> None:
    await happened(api, {item: 1 + item % 5 for item in range(50)})
    await api.client.patch("/users/u9/blocks", json={"block": ["item-14"]})
    shown = ids(await api.client.get("/popular?window=1h&category=toys&user_id=u9&n=100&exclude=item-4"))
    toys = {item for item, names in enumerate(bundle.catalog.categories) if "toys" in names}
    assert set(shown) == {f"item-{item}" for item in toys - {4, 14, *OUT_OF_STOCK}}
    assert "item-14" not in shown


async def test_reads_make_nothing_popular(api: RunningApp) -> None:
    await happened(api, {5: 2}, kind="read")
    assert ids(await api.client.get("/popular?window=1h")) == []


async def test_duplicates_count_once(api: RunningApp) -> None:
    for _ in range(3):
        await api.client.post("/events", json=[{"user_id": "ann", "item_id": "item-1", "id": "a"}])
    await api.services.popular_windows.flush()
    assert (await api.client.get("/popular?window=1h")).json()["items"][0]["score"] == 1


async def test_rankings_are_at_most_ten_seconds_old_and_kept_for_as_long(api: RunningApp) -> None:
    await happened(api, {5: 1})
    assert ids(await api.client.get("/popular?window=1h")) == ["item-5"]
    await happened(api, {6: 2})
    assert ids(await api.client.get("/popular?window=1h")) == ["item-5"], "not read again for each request"
    assert ids(await api.client.get("/popular?window=24h")) == ["item-6", "item-5"]
    api.services.popular_windows._rankings["1h"].made_at -= 10.1
    assert ids(await api.client.get("/popular?window=1h")) == ["item-6", "item-5"]


async def test_without_redis_the_last_counts_go_on_and_others_are_a_503(
    settings: Settings, stored: redis.Redis
) -> None:
    async with running(settings) as app:
        await happened(app, {5: 1})
        await app.client.get("/popular?window=1h")
        embedded_redis.stop(settings.home)
        app.services.popular_windows._rankings["1h"].made_at -= 100
        answer = await app.client.get("/popular?window=1h")
        assert ids(answer) == ["item-5"]
        assert answer.json()["age_s"] >= 100
        unknown = await app.client.get("/popular?window=30d")
        assert (unknown.status_code, unknown.json()["type"]) == (503, "urn:tessera:problem:window-not-counted")
        assert (await app.client.get("/popular")).status_code == 200


async def test_buckets_are_bounded_and_expire(api: RunningApp, cache: Cache) -> None:
    bucket = f"h{int(time.time() // HOUR_S)}"
    cache.redis.zadd(cache.keys.popular(bucket), {f"x-{number}": 1 for number in range(MAX_BUCKET_ITEMS + 50)})
    await happened(api, {5: 3})
    keys = list(cache.redis.scan_iter(cache.keys.popular("*")))
    assert len(keys) == 2
    assert all(0 < cache.redis.ttl(key) <= 32 * DAY_S for key in keys)
    assert cache.redis.zcard(cache.keys.popular(bucket)) == MAX_BUCKET_ITEMS
    assert cache.redis.zscore(cache.keys.popular(bucket), "item-5") == 3


def test_a_window_is_as_long_as_it_says() -> None:
    now = 100 * DAY_S + 0.25 * HOUR_S
    for window, seconds in (("1h", HOUR_S), ("24h", DAY_S), ("7d", 7 * DAY_S), ("30d", 30 * DAY_S)):
        buckets = dict(buckets_of(window, now))
        unit_s = HOUR_S if window in ("1h", "24h") else DAY_S
        into = now % unit_s / unit_s
        assert unit_s * (sum(buckets.values()) - 1 + into) == pytest.approx(seconds)
        assert len(buckets) == len(Counter(buckets)) == seconds // unit_s + 1


def test_windows_are_named_in_openapi_and_others_are_refused() -> None:
    with pytest.raises(KeyError):
        dict(buckets_of("2h", time.time()))  # type: ignore[arg-type]
