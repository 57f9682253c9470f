"""Items in Gorse's names."""

from typing import Any

import httpx
import pytest
from gorse import GorseException

from tests.app.gorse.pygorse_calls import AT, NEVER, Call, feedback, item_ids
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.test_problems import assert_problem


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
        ({"is_hidden": True}, "is_hidden"),
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
