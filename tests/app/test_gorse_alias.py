"""Gorse's own client, and requests in its shapes, against this service over HTTP."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gorse import AsyncGorse, Gorse, GorseException

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.conftest import ids
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.running_server import served
from tests.app.test_problems import assert_problem

KEY, READER = "gorse-" + "k" * 20, "reader-" + "k" * 20
AT = "2026-01-02T03:04:05Z"
NEVER = "0001-01-01T00:00:00Z"
REFUSED = {"list_feedbacks", "get_feedbacks", "delete_feedback", "get_users"}

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def server(store: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with one key that may read and write, and another that may only read."""
    home = tmp_path_factory.mktemp("home")
    keys = f"read+write:{KEY},read:{READER}"
    settings = Settings.model_validate({"store": store, "home": home, "redis_timeout_ms": 2000, "api_keys": keys})
    embedded_redis.ensure_running(home)
    with served(settings, workers=1) as client:
        client.headers["X-API-Key"] = KEY
        yield client
    embedded_redis.stop(home)


@pytest.fixture(params=[Gorse, AsyncGorse])
def call(request: pytest.FixtureRequest, server: httpx.Client) -> Call:
    """Calls a method of PyGorse's, of both of its clients, as the users of `call.name`."""
    return calling(request.param, server)


def calling(kind: type, server: httpx.Client, key: str = KEY) -> Call:
    client = kind(str(server.base_url).rstrip("/"), key)

    def call(method: str, *arguments: Any, **named: Any) -> Any:
        answer = getattr(client, method)(*arguments, **named)
        return asyncio.run(answer) if inspect.isawaitable(answer) else answer

    return call


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of this test alone."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)


def feedback(item: int, *, user: str = "", kind: str = "like", at: str = AT) -> dict[str, Any]:
    return {"FeedbackType": kind, "UserId": user, "ItemId": f"item-{item}", "Timestamp": at, "Value": 0}


def history(server: httpx.Client, user: str) -> list[str]:
    found: list[str] = server.get(f"/users/{user}/history").json()["items"]
    return found


def item_ids(scores: Any) -> list[str]:
    return [one["Id"] for one in scores]


def methods_of(client: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}


def test_both_clients_have_the_methods_that_are_tested_here() -> None:
    called = set()
    for name, test in globals().items():
        if name.startswith("test_") and "call" in inspect.signature(test).parameters:
            source = inspect.getsource(test)
            called |= {method for method in methods_of(Gorse) if f'call("{method}"' in source}
    assert called | REFUSED == methods_of(Gorse) == methods_of(AsyncGorse)


def test_recommendations_with_scores_are_our_own(server: httpx.Client, call: Call, user: str) -> None:
    own = server.get(f"/recommend/{user}?n=4&offset=2").json()["items"]
    scores = call("get_recommend", user, n=4, offset=2)
    assert [(one.id, one.score) for one in scores] == [(item["item_id"], item["score"]) for item in own]
    toys = [item["item_id"] for item in server.get(f"/recommend/{user}?n=100&category=toys").json()["items"]]
    assert 0 < len(toys) < 50
    assert [one.id for one in call("get_recommend", user, "toys", n=100)] == toys


def test_recommendations_are_bare_ids_unless_scores_are_asked_for(server: httpx.Client) -> None:
    own = ids(server.get("/recommend/nobody?n=3"))
    for path in ("/api/recommend/nobody", "/api/recommend/nobody/"):
        assert server.get(f"{path}?n=3").json() == own
        assert item_ids(server.get(f"{path}?n=3", headers={"X-API-Version": "2"}).json()) == own


def test_categories_of_path_and_query_are_all_met(server: httpx.Client) -> None:
    every = server.get("/api/items?n=100").json()["Items"]
    shown = set(ids(server.get("/popular?n=100")))
    both = {one["ItemId"] for one in every if {"toys", "audio"} <= set(one["Categories"])} & shown
    for path in ("recommend/nobody", "popular", "latest"):
        for asked in (f"{path}/toys?n=100&category=audio", f"{path}?n=100&category=toys&category=audio"):
            answer = server.get(f"/api/{asked}", headers={"X-API-Version": "2"}).json()
            assert set(item_ids(answer)) == both, asked


def test_write_back_counts_as_read(server: httpx.Client, call: Call, user: str) -> None:
    first = call("get_recommend", user, n=2, write_back_type="read", write_back_delay="0s")
    later = call("get_recommend", user, n=50, write_back_type="read", write_back_delay="1h30m")
    assert len(first) == 2
    for _ in range(100):
        left = {one.id for one in call("get_recommend", user, n=50)}
        if not left & {one.id for one in first}:
            break
    assert left >= {one.id for one in later} - {one.id for one in first}, "what is read in an hour is not read yet"
    assert not left & {one.id for one in first}
    for named in ({"write_back_type": "like"}, {"write_back_type": "read", "write_back_delay": "soon"}):
        with pytest.raises(GorseException) as refused:
            call("get_recommend", user, **named)
        assert refused.value.status_code == 422


@pytest.mark.parametrize("delay", ["", "-1h", "1", "1d", "9999999h", "9" * 31 + "h", "1h 30m"])
def test_delays_that_are_none_are_refused(server: httpx.Client, delay: str) -> None:
    answer = server.get("/api/recommend/ann", params={"write-back-type": "read", "write-back-delay": delay})
    assert_problem(answer, 422, "invalid-request")
    assert answer.json()["errors"][0]["location"][0] == "query"


def test_feedback_becomes_history_and_reads_are_withheld(server: httpx.Client, call: Call, user: str) -> None:
    assert call("insert_feedback", "like", user, "item-7", AT) == {"RowAffected": 1}
    rows = [
        feedback(9, user=user, at="2026-01-02 03:05:00"),
        feedback(8, user=user),
        feedback(5, user=user, kind="read"),
    ]
    assert call("insert_feedbacks", rows) == {"RowAffected": 3}
    assert history(server, user) == ["item-7", "item-8", "item-9"], "by time, not as sent"
    shown = {one.id for one in call("get_recommend", user, n=100)}
    assert len(shown) > 40
    assert not shown & {"item-5", "item-7", "item-8", "item-9"}


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_the_same_feedback_counts_once(server: httpx.Client, user: str, method: str) -> None:
    rows = [feedback(7, user=user), feedback(7, user=user, kind="buy"), feedback(7, user=user, at="2026-01-03")]
    for _ in range(2):
        assert server.request(method, "/api/feedback", json=rows).json() == {"RowAffected": 3}
    assert history(server, user) == ["item-7"] * 3
    for _ in range(2):
        server.request(method, "/api/feedback", json=[feedback(8, user=user, at="")])
    assert history(server, user) == ["item-7"] * 3 + ["item-8"] * 2, "without a time nobody can tell"


def test_feedback_on_unknown_items_is_named_and_not_lost_in_silence(server: httpx.Client, user: str) -> None:
    rows = [feedback(7, user=user), feedback(999, user=user)]
    rejected = [{"Row": 1, "ItemId": "item-999", "Reason": "unknown_item"}]
    assert server.post("/api/feedback", json=rows).json() == {"RowAffected": 1, "Rejected": rejected}
    assert_problem(server.post("/api/feedback", json=rows[1:]), 404, "item-not-found")
    assert history(server, user) == ["item-7"]


def test_session_is_recommended_to_by_its_newest_items(server: httpx.Client, call: Call) -> None:
    session = [feedback(40, at="2026-01-03"), feedback(3), feedback(6, kind="read")]
    own = server.post("/recommend", json={"history": ["item-3", "item-40"], "exclude": ["item-6"], "n": 5}).json()
    expected = [{"Id": item["item_id"], "Score": pytest.approx(item["score"])} for item in own["items"]]
    assert call("session_recommend", session, n=5) == expected
    in_toys = server.post("/api/session/recommend/toys?n=100", json=session).json()
    asked = server.post("/api/session/recommend?n=100&category=toys", json=session).json()
    assert in_toys == asked
    assert 0 < len(in_toys) < 50
    assert server.post("/api/session/recommend?n=3&offset=2", json=session).json() == [
        one | {"Score": pytest.approx(one["Score"])} for one in call("session_recommend", session, n=5)[2:]
    ]


def test_neighbors_are_our_similar_items(server: httpx.Client, call: Call) -> None:
    own = ids(server.get("/similar/item-7?n=5&offset=1"))
    assert item_ids(call("get_neighbors", "item-7", n=5, offset=1)) == own
    for path in ("item/item-7/neighbors/", "item-to-item/anything/item-7"):
        assert item_ids(server.get(f"/api/{path}?n=5&offset=1").json()) == own
    toys = ids(server.get("/similar/item-7?n=100&category=toys"))
    assert item_ids(server.get("/api/item/item-7/neighbors/toys?n=100").json()) == toys
    assert_problem(server.get("/api/item/nothing/neighbors"), 404, "item-not-found")


def test_popular_and_latest_are_our_own(server: httpx.Client, user: str) -> None:
    server.post("/api/feedback", json=[feedback(item, user=user) for item in range(5)])
    for name in ("popular", "latest"):
        own = ids(server.get(f"/{name}?n=5"))
        whole = ids(server.get(f"/{name}?n=100&user_id={user}"))
        toys = ids(server.get(f"/{name}?n=100&category=toys"))
        assert not set(whole) & {f"item-{item}" for item in range(5)}
        for path in (name, f"{name}/", f"non-personalized/{name}"):
            assert item_ids(server.get(f"/api/{path}?n=5").json()) == own
            assert item_ids(server.get(f"/api/{path}?n=100&user-id={user}").json()) == whole
        assert item_ids(server.get(f"/api/{name}/toys?n=100").json()) == toys
        assert item_ids(server.get(f"/api/non-personalized/{name}?n=100&category=toys").json()) == toys
    assert_problem(server.get("/api/non-personalized/trending"), 422, "invalid-request")


def test_item_is_shown_and_changed_in_gorse_names(server: httpx.Client, call: Call) -> None:
    price = server.get("/items/item-20").json()["price"]
    item = {
        "ItemId": "item-20",
        "IsHidden": False,
        "Categories": ["toys", "garden"],
        "Timestamp": AT,
        "Labels": {"brand": "Lux", "colours": ["red", "blue"], "size": {"x": 1}},
        "Comment": "Lamp\nRuns on sunlight.\nWarm.",
    }
    assert call("insert_item", item) == {"RowAffected": 1}
    assert call("get_item", "item-20") == item
    own = server.get("/items/item-20").json()
    assert (own["title"], own["text"], own["categories"]) == ("Lamp", "Runs on sunlight.\nWarm.", ["toys", "garden"])
    assert own["attributes"]["brand"] == "Lux"
    assert own["price"] == price, "Gorse has no price, and leaves it alone"

    assert call("update_item", "item-20") == {"RowAffected": 1}
    assert call("get_item", "item-20") == item, "null is unchanged"
    assert call("update_item", "item-20", labels=["red", "blue"]) == {"RowAffected": 1}
    assert call("get_item", "item-20") == item | {"Labels": ["red", "blue"]}
    call("update_item", "item-20", timestamp="2026-05-06", comment="Other", categories=[])
    changed = {"Timestamp": "2026-05-06T00:00:00Z", "Comment": "Other", "Categories": []}
    assert call("get_item", "item-20") == item | changed | {"Labels": ["red", "blue"]}

    bare = {"ItemId": "item-20", "IsHidden": False, "Categories": [], "Timestamp": NEVER, "Labels": None, "Comment": ""}
    call("insert_item", {"ItemId": "item-20", "Categories": None, "Timestamp": "", "Labels": None})
    assert call("get_item", "item-20") == bare, "an insert says all of an item"
    for name, path in (("insert_item", "/api/item"), ("get_item", "")):
        with pytest.raises(GorseException) as refused:
            call(name, {"ItemId": "new", "Comment": "New"} if path else "nothing")
        assert refused.value.status_code == (503 if path else 404), "this server has no decoder to give new items codes"


def test_categories_are_put_and_taken(server: httpx.Client) -> None:
    server.patch("/api/item/item-21", json={"Categories": ["toys"]})
    for _ in range(2):
        assert server.put("/api/item/item-21/category/home/lamps").json() == {"RowAffected": 1}
    assert server.get("/api/item/item-21").json()["Categories"] == ["toys", "home/lamps"]
    assert "item-21" in item_ids(server.get("/api/popular/home/lamps").json())
    for _ in range(2):
        assert server.delete("/api/item/item-21/category/toys").json() == {"RowAffected": 1}
    assert server.get("/api/item/item-21").json()["Categories"] == ["home/lamps"]
    for method in ("PUT", "DELETE"):
        assert_problem(server.request(method, "/api/item/nothing/category/toys"), 404, "item-not-found")
    server.patch("/api/item/item-21", json={"Categories": [f"c{number}" for number in range(20)]})
    assert_problem(server.put("/api/item/item-21/category/one-more"), 422, "invalid-request")


def test_hidden_item_is_on_no_list_and_still_an_item(server: httpx.Client, call: Call, user: str) -> None:
    call("update_item", "item-22", is_hidden=True)
    try:
        assert call("get_item", "item-22")["IsHidden"] is True
        assert "item-22" in {one["ItemId"] for one in call("get_items", 100)[0]}
        assert "item-22" not in {one.id for one in call("get_recommend", user, n=100)}
        assert "item-22" not in item_ids(call("get_neighbors", "item-2", n=100))
        assert "item-22" not in item_ids(call("session_recommend", [feedback(2)], n=100))
    finally:
        call("update_item", "item-22", is_hidden=False)
    assert "item-22" in {one.id for one in call("get_recommend", user, n=100)}
    assert not {f"item-{item}" for item in OUT_OF_STOCK} & {one.id for one in call("get_recommend", user, n=100)}


def test_items_are_listed_page_by_page_and_searched(server: httpx.Client, call: Call) -> None:
    server.post("/api/item", json={"ItemId": "item-23", "Comment": "Garden lantern"})
    listed, cursor = [], ""
    while True:
        page, cursor = call("get_items", 7, cursor)
        assert len(page) <= 7
        listed += [one["ItemId"] for one in page]
        if not cursor:
            break
    assert listed == [f"item-{item}" for item in range(50)], "those out of stock too"
    assert len(call("get_items", 100_000)[0]) == 50
    assert [one["ItemId"] for one in call("search_items", "LANTERN", n=5)] == ["item-23"]
    assert_problem(server.get("/api/items?cursor=nothing"), 404, "item-not-found")


def test_deleted_item_is_gone(server: httpx.Client, call: Call) -> None:
    try:
        assert call("delete_item", "item-24") == {"RowAffected": 1}
        assert call("delete_item", "item-24") == {"RowAffected": 0}
        with pytest.raises(GorseException) as refused:
            call("update_item", "item-24", is_hidden=False)
        assert refused.value.status_code == 404
        assert "item-24" not in item_ids(call("get_neighbors", "item-2", n=100))
    finally:
        assert call("insert_item", {"ItemId": "item-24", "Comment": "Back"}) == {"RowAffected": 1}
    assert "item-24" in item_ids(call("get_neighbors", "item-2", n=100))


def test_rows_that_cannot_be_stored_are_named(server: httpx.Client) -> None:
    rows = [{"ItemId": "item-25", "Comment": "Known"}, {"ItemId": "new", "Comment": "New"}]
    answer = server.post("/api/items", json=rows).json()
    rejected = [{"Row": 1, "ItemId": "new", "Reason": "new_item_unavailable"}]
    assert answer == {"RowAffected": 1, "Rejected": rejected}
    assert_problem(server.post("/api/items", json=rows[1:]), 503, "new-item-unavailable")


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"Labels": {"timestamp": "1"}}, "Timestamp"),
        ({"Labels": {"text": "a" * 1001}}, "Labels"),
        ({"Labels": {f"n{number}": "a" for number in range(51)}}, "Labels"),
        ({"Comment": "a" * 1001}, "first line of Comment"),
        ({"Comment": "a\n" + "b" * 5001}, "rest of Comment"),
        ({"Categories": [f"c{number}" for number in range(21)]}, "Categories"),
        ({"Timestamp": "soon"}, "Timestamp"),
        ({"Hidden": True}, "Hidden"),
    ],
)
def test_what_an_item_cannot_hold_is_refused_by_name(server: httpx.Client, said: dict[str, Any], named: str) -> None:
    for method, path, body in (
        ("PATCH", "/api/item/item-26", said),
        ("POST", "/api/item", {"ItemId": "item-26"} | said),
        ("POST", "/api/items", [{"ItemId": "item-26"} | said]),
    ):
        answer = server.request(method, path, json=body)
        assert_problem(answer, 422, "invalid-request")
        assert named in str(answer.json()["errors"])
    assert server.get("/api/item/item-26").json()["Comment"] == "Title 26"


def test_labels_that_are_no_unicode_or_too_deep_are_refused(server: httpx.Client) -> None:
    deep: Any = "a"
    for _ in range(400):
        deep = [deep]
    headers = {"Content-Type": "application/json"}
    for content in (b'{"Labels": {"a": ["\\ud800"]}}', b'{"Labels": [' + b"9" * 60 + b"]}"):
        answer = server.patch("/api/item/item-26", content=content, headers=headers)
        assert_problem(answer, 422, "invalid-request")
    assert_problem(server.patch("/api/item/item-26", json={"Labels": {"a": deep}}), 422, "invalid-request")


def test_users_are_there_by_their_events(server: httpx.Client, call: Call, user: str) -> None:
    labels = {"age": "30"}
    assert call("insert_user", {"UserId": user, "Labels": labels, "Comment": ""}) == {"RowAffected": 1}
    assert call("insert_users", [{"UserId": user}, {"UserId": "other", "Subscribe": None}]) == {"RowAffected": 2}
    assert call("get_user", user) == {"UserId": user, "Labels": None, "Comment": ""}
    call("insert_feedback", "like", user, "item-7", AT)
    assert call("delete_user", user) == {"RowAffected": 1}
    assert history(server, user) == []
    assert call("delete_user", user) == {"RowAffected": 0}
    assert_problem(server.post("/api/user", json={"Name": "ann"}), 422, "invalid-request")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("list_feedbacks", ("like", "ann")),
        ("get_feedbacks", (10,)),
        ("delete_feedback", ("ann", "item-7")),
        ("get_users", (10,)),
    ],
)
def test_what_is_not_stored_is_refused_and_not_empty(call: Call, method: str, arguments: tuple[Any, ...]) -> None:
    assert method in REFUSED
    with pytest.raises(GorseException) as refused:
        call(method, *arguments)
    assert refused.value.status_code == 501
    assert "urn:tessera:problem:not-stored" in refused.value.message


def test_feedback_is_not_told_in_any_other_way_either(server: httpx.Client) -> None:
    for path in ("feedback/ann/item-7", "user/ann/feedback"):
        assert_problem(server.get(f"/api/{path}"), 501, "not-stored")


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
