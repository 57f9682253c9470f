"""JSON Lines: each line counts alone, and every line that is not recorded is reported."""

import json

import httpx
import pytest

from tests.app.conftest import Cache, RunningApp

pytestmark = pytest.mark.anyio

HEADERS = {"content-type": "application/x-ndjson"}


async def post(api: RunningApp, body: str | bytes) -> httpx.Response:
    return await api.client.post("/events", content=body, headers=HEADERS)


async def test_good_lines_are_recorded_and_bad_ones_reported(api: RunningApp, cache: Cache) -> None:
    lines = [
        '{"user_id": "ann", "item_id": "item-1", "timestamp": 20}',
        "not json",
        "",
        '{"user_id": "ann", "item_id": "item-2", "timestamp": 10}',
        '{"user_id": "ann"}',
        '{"user_id": "ann", "item_id": "item-999"}',
        '["ann", "item-1"]',
        '{"user_id": "ann", "item_id": "item-3", "colour": "red"}',
    ]
    answer = (await post(api, "\n".join(lines))).json()
    assert (answer["accepted"], answer["duplicates"], answer["rejected_lines"]) == (2, 0, 5)
    reasons = {one["line"]: one["reason"] for one in answer["rejected"]}
    assert list(reasons) == [2, 5, 6, 7, 8]
    assert reasons[2].startswith("Invalid JSON")
    assert reasons[5] == "item_id: Field required"
    assert reasons[6] == "unknown_item"
    assert reasons[8] == "colour: Extra inputs are not permitted"
    assert cache.history("ann") == ["item-2", "item-1"], "in the order of their times"


async def test_bytes_that_are_no_text_spoil_their_line_alone(api: RunningApp, cache: Cache) -> None:
    body = b'{"user_id": "\xff", "item_id": "item-1"}\r\n{"user_id": "bob", "item_id": "item-1"}\r\n'
    answer = (await post(api, body)).json()
    assert (answer["accepted"], [one["line"] for one in answer["rejected"]]) == (1, [1])
    assert cache.history("bob") == ["item-1"]


async def test_as_many_lines_as_fit_into_a_body(api: RunningApp, cache: Cache) -> None:
    lines = [json.dumps({"user_id": f"u{n % 500}", "item_id": f"item-{n % 50}", "id": str(n)}) for n in range(12_000)]
    answer = (await post(api, "\n".join([*lines, *["x"] * 1500]))).json()
    assert (answer["accepted"], answer["duplicates"], answer["rejected_lines"]) == (12_000, 0, 1500)
    assert len(answer["rejected"]) == 1000, "as many as are reported"
    assert cache.history("u7") == [f"item-{n % 50}" for n in range(7, 12_000, 500)]


async def test_ids_count_in_lines_too(api: RunningApp, cache: Cache) -> None:
    line = '{"user_id": "ann", "item_id": "item-1", "id": "a"}\n'
    assert (await post(api, line * 3)).json()["duplicates"] == 2
    assert (await post(api, line)).json()["duplicates"] == 1
    assert cache.history("ann") == ["item-1"]


async def test_what_was_sent_is_not_repeated_in_a_report(api: RunningApp) -> None:
    answer = await post(api, '{"user_id": "a-private-id", "item_id": 5, "timestamp": "hush"}')
    assert "a-private-id" not in answer.text
    assert "hush" not in answer.text


@pytest.mark.parametrize("body", ["", "\n \n"])
async def test_no_line_at_all_is_refused(api: RunningApp, body: str) -> None:
    answer = await post(api, body)
    assert (answer.status_code, answer.json()["errors"][0]["location"]) == (422, ["body"])


async def test_other_media_types_are_refused_with_what_to_send(api: RunningApp) -> None:
    answer = await api.client.post("/events", content=b"[]", headers={"content-type": "text/csv"})
    assert answer.status_code == 422
    assert "application/x-ndjson" in answer.json()["errors"][0]["message"]


async def test_both_forms_are_in_openapi(api: RunningApp) -> None:
    document = (await api.client.get("/openapi.json")).json()
    operation = document["paths"]["/events"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "application/x-ndjson"}
    event = operation["requestBody"]["content"]["application/json"]["schema"]["items"]
    assert {"user_id", "item_id", "id"} <= set(event["properties"])
    assert "429" in operation["responses"]
