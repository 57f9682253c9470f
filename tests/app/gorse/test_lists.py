"""Lists of items in Gorse's names are our own."""

import httpx
import pytest
from gorse import GorseException

from tests.app.conftest import ids
from tests.app.gorse.pygorse_calls import Call, feedback, item_ids
from tests.app.test_problems import assert_problem


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
