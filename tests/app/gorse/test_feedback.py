"""Feedback and users in Gorse's names."""

from typing import Any

import httpx
import pytest
from gorse import GorseException

from tests.app.gorse.pygorse_calls import AT, Call, feedback, history
from tests.app.test_problems import assert_problem


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
    with pytest.raises(GorseException) as refused:
        call(method, *arguments)
    assert refused.value.status_code == 501
    assert "urn:tessera:problem:not-stored" in refused.value.message


def test_feedback_is_not_told_in_any_other_way_either(server: httpx.Client) -> None:
    for path in ("feedback/ann/item-7", "user/ann/feedback"):
        assert_problem(server.get(f"/api/{path}"), 501, "not-stored")
