"""Who may call Gorse's API, and what it says of itself."""

from pathlib import Path

import httpx
import pytest
from gorse import Gorse, GorseException

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.gorse.pygorse_calls import AT, KEY, READER, calling, feedback
from tests.app.running_server import served
from tests.app.test_problems import assert_problem


def test_keys_and_scopes_are_those_of_our_own_routes(server: httpx.Client) -> None:
    reader, stranger = calling(Gorse, server, READER), calling(Gorse, server, "nobody")
    assert reader("get_recommend", "ann", n=1)
    for method, arguments in (
        ("insert_feedback", ("like", "ann", "item-7", AT)),
        ("insert_item", ({"ItemId": "item-7"},)),
        ("update_item", ("item-7",)),
        ("delete_item", ("item-7",)),
        ("insert_user", ({"UserId": "ann"},)),
        ("delete_user", ("ann",)),
        ("delete_feedback", ("ann", "item-7")),
    ):
        with pytest.raises(GorseException) as refused:
            reader(method, *arguments)
        assert refused.value.status_code == 403, method
        with pytest.raises(GorseException) as refused:
            stranger(method, *arguments)
        assert refused.value.status_code == 401, method
    with pytest.raises(GorseException) as refused:
        stranger("get_recommend", "ann")
    assert refused.value.status_code == 401


def test_health_is_told_without_a_key_and_says_when_redis_is_away(store: Path, bundle: Bundle, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"store": store, "home": tmp_path, "api_keys": f"read+write:{KEY}", "redis_timeout_ms": 500}
    )
    embedded_redis.ensure_running(tmp_path)
    fine = {
        "Ready": True,
        "DataStoreConnected": True,
        "CacheStoreConnected": True,
        "DataStoreError": None,
        "CacheStoreError": None,
    }
    try:
        with served(settings.model_copy(update={"redis_url": embedded_redis.ensure_running(tmp_path)}), 1) as client:
            for path in ("live", "ready"):
                assert client.get(f"/api/health/{path}").json() == fine
            embedded_redis.stop(tmp_path)
            for path in ("live", "ready"):
                said = client.get(f"/api/health/{path}").json()
                assert (said["Ready"], said["DataStoreConnected"], said["CacheStoreConnected"]) == (True, False, False)
                assert said["DataStoreError"] == said["CacheStoreError"] != ""
            key = {"X-API-Key": KEY}
            for path in ("recommend/ann", "popular?user-id=ann", "latest", "item/item-7/neighbors?user-id=ann"):
                assert len(client.get(f"/api/{path}", headers=key).json()) == 10
            for method, path, body in (
                ("POST", "feedback", [feedback(7, user="ann")]),
                ("PATCH", "item/item-7", {"IsHidden": True}),
                ("POST", "items", [{"ItemId": "item-7"}]),
                ("DELETE", "item/item-7", None),
                ("DELETE", "user/ann", None),
            ):
                answer = client.request(method, f"/api/{path}", json=body, headers=key)
                assert_problem(answer, 503, "storage-unavailable")
    finally:
        embedded_redis.stop(tmp_path)
