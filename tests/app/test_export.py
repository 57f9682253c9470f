"""What is exported is all there is, can be posted again, and says where it could not go on."""

import json

import httpx
import pytest
from pydantic import SecretStr

from app import exported_lines
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, running

pytestmark = pytest.mark.anyio

LINES = {"content-type": "application/x-ndjson"}


def rows(answer: httpx.Response) -> list[dict]:
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_events_are_every_history_oldest_first_and_can_be_posted_again(api: RunningApp, cache: Cache) -> None:
    for number in range(230):
        cache.put_history(f"user-{number}", [number % 50, (number + 1) % 50, number % 50])
    cache.redis.set(cache.keys.active, api.services.active.served.version)
    answer = await api.client.get("/export/events")
    of_user: dict[str, list[str]] = {}
    for row in rows(answer):
        of_user.setdefault(row["user_id"], []).append(row["item_id"])
    assert of_user == {f"user-{n}": [f"item-{n % 50}", f"item-{(n + 1) % 50}", f"item-{n % 50}"] for n in range(230)}
    for user in of_user:
        cache.redis.delete(cache.keys.history(user))
    back = (await api.client.post("/events", content=answer.content, headers=LINES)).json()
    assert (back["accepted"], back["rejected_lines"]) == (690, 0)
    assert cache.history("user-7") == of_user["user-7"]


async def test_items_are_exported_as_they_are_now_and_can_be_posted_again(api: RunningApp) -> None:
    await api.client.patch("/items/item-3", json={"price": 2.5, "hidden": True})
    await api.client.delete("/items/item-4")
    answer = await api.client.get("/export/items")
    found = {row["item_id"]: row for row in rows(answer)}
    assert set(found) == set(api.services.active.served.catalog.item_ids) - {"item-4"}
    assert (found["item-3"]["price"], found["item-3"]["hidden"]) == (2.5, True)
    back = (await api.client.post("/items", content=answer.content, headers=LINES)).json()
    assert (back["accepted"], back["rejected_lines"]) == (len(found), 0)
    assert rows(await api.client.get("/export/items")) == list(found.values())


async def test_a_failure_on_the_way_is_the_last_line(
    api: RunningApp, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(120):
        cache.put_history(f"user-{number}", [1])
    monkeypatch.setattr(exported_lines, "_USERS_AT_ONCE", 10)
    # A key that is no list, somewhere behind the beginning: Redis refuses to read it as one.
    spoiled = list(cache.redis.scan_iter(cache.keys.histories(), count=1000))[60]
    cache.redis.delete(spoiled)
    cache.redis.set(spoiled, "x")
    *whole, last = rows(await api.client.get("/export/events"))
    assert last == exported_lines.STOPPED
    assert 10 <= len(whole) < 120
    assert all(row.keys() == {"user_id", "item_id"} for row in whole)


async def test_without_redis_there_is_no_export(api: RunningApp, settings: Settings) -> None:
    from app import embedded_redis

    embedded_redis.stop(settings.home)
    for what in ("events", "items"):
        answer = await api.client.get(f"/export/{what}")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:tessera:problem:storage-unavailable")


async def test_an_empty_service_exports_no_line(api: RunningApp) -> None:
    assert rows(await api.client.get("/export/events")) == []


async def test_an_export_needs_the_scope_admin(settings: Settings, cache: Cache) -> None:
    keys = SecretStr("read+write:reads-and-writes-01234,admin:administrates-0123456")
    async with running(settings.model_copy(update={"api_keys": keys}), ("10.0.0.9", 1)) as api:
        for what in ("events", "items"):
            for key, status in (("reads-and-writes-01234", 403), ("administrates-0123456", 200)):
                answer = await api.client.get(f"/export/{what}", headers={"X-API-Key": key})
                assert answer.status_code == status
