"""JSON Lines of items: each line counts alone, and every line that is not stored is reported."""

import httpx
import pytest

from app.routes import catalogue
from tests.app.conftest import RunningApp

pytestmark = pytest.mark.anyio


async def post(api: RunningApp, body: str | bytes) -> httpx.Response:
    return await api.client.post("/items", content=body, headers={"content-type": "application/x-ndjson"})


async def test_good_lines_are_stored_and_bad_ones_reported(api: RunningApp) -> None:
    lines = [
        '{"item_id": "item-1", "operation": "patch", "price": 7}',
        "not json",
        "",
        '{"item_id": "item-2", "operation": "delete"}',
        '{"item_id": "item-3", "operation": "patch"}',
        '{"item_id": "lost", "operation": "patch", "price": 7}',
        '{"item_id": "item-1", "operation": "patch", "price": 8}',
    ]
    answer = (await post(api, "\n".join(lines))).json()
    assert (answer["accepted"], answer["rejected_lines"]) == (3, 3)
    reasons = {one["line"]: one["reason"] for one in answer["rejected"]}
    assert list(reasons) == [2, 5, 6]
    assert reasons[2].startswith("Invalid JSON")
    assert "patch needs at least one field" in reasons[5]
    assert reasons[6] == "unknown_item"
    assert (await api.client.get("/items/item-1")).json()["price"] == 8
    assert (await api.client.get("/items/item-2")).status_code == 404


async def test_more_lines_than_are_stored_together_keep_their_numbers(
    api: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "MAX_WRITES", 3)
    lines = [
        f'{{"item_id": "{"lost" if n in (4, 9) else "item-1"}", "operation": "patch", "price": {n}}}' for n in range(11)
    ]
    answer = (await post(api, "\n".join(lines))).json()
    assert (answer["accepted"], [one["line"] for one in answer["rejected"]]) == (9, [5, 10])
    assert (await api.client.get("/items/item-1")).json()["price"] == 10


@pytest.mark.parametrize("body", ["", "\n \n"])
async def test_no_line_at_all_is_refused(api: RunningApp, body: str) -> None:
    answer = await post(api, body)
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["body"])
