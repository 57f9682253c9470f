"""What one request may take of a worker."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message

from app.request_boundary import RequestBoundary
from app.settings import Settings
from app.telemetry import Telemetry
from app.traffic import Traffic
from tests.app.conftest import RunningApp, running
from tests.app.test_problems import assert_problem

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("target", ["/popular?category=" + "a" * 40_000, "/similar/" + "a" * 40_000])
async def test_address_too_long(client: httpx.AsyncClient, target: str) -> None:
    assert_problem(await client.get(target), 414, "address-too-long")


async def test_address_of_the_largest_length_is_read(settings: Settings, stored: object) -> None:
    async with running(settings.model_copy(update={"max_address_bytes": 1024})) as app:
        fits = "/popular?n=1&exclude=" + "a" * 240
        assert (await app.client.get(fits + "&exclude=b" * 70)).status_code == 200
        assert_problem(await app.client.get(fits + "&exclude=b" * 90), 414, "address-too-long")


@pytest.mark.parametrize("target", ["/recommend/ann%0A", "/recommend/a%0Ann", "/users/ann/history%0A", "/popular%0A"])
async def test_a_line_break_in_a_path_makes_no_other_id_of_it(client: httpx.AsyncClient, target: str) -> None:
    assert_problem(await client.get(target), 400, "bad-address")


@pytest.mark.parametrize(
    "target", ["/recommend/a%FF", "/users/a%FE/history", "/similar/%C0%AF", "/popular?category=%FF"]
)
async def test_bytes_that_are_no_text_make_no_id(client: httpx.AsyncClient, target: str) -> None:
    """They would all become the same one."""
    assert_problem(await client.get(target), 422, "invalid-request")


async def test_body_that_comes_too_slowly(settings: Settings, stored: object) -> None:
    gone = asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        yield b'{"user_id":'
        await gone.wait()
        yield b' "ann"}'

    async with running(settings.model_copy(update={"body_timeout_ms": 100})) as app:
        for headers in ({}, {"Content-Length": "18"}):
            answer = await app.client.post("/recommend", content=drip(), headers=headers)
            assert_problem(answer, 408, "body-too-slow")
            assert answer.headers["connection"] == "close"
        gone.set()
        headers = {"Content-Type": "application/json"}
        assert (await app.client.post("/recommend", content=drip(), headers=headers)).status_code == 200


@pytest.mark.parametrize("declared", ["1048577", "9" * 5000, "-1", "1e3", "x", "", "१"])
async def test_declared_length_that_is_too_large_or_none(api: RunningApp, declared: str) -> None:
    headers = [(b"content-length", declared.encode())]
    answer = await api.client.post("/recommend", content=b"{}", headers=headers)
    assert_problem(answer, 413, "body-too-large")


async def test_too_many_at_once_are_told_to_come_again(settings: Settings) -> None:
    let_go = asyncio.Event()

    async def slow(scope: object, receive: object, send: object) -> None:
        await let_go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"{}"})  # type: ignore[operator]

    boundary = RequestBoundary(
        slow, settings=settings.model_copy(update={"max_in_flight": 2}), telemetry=Telemetry(), traffic=Traffic()
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(boundary), base_url="http://localhost") as client:
        under_way = [asyncio.create_task(client.get("/popular")) for _ in range(2)]
        health = asyncio.create_task(client.get("/health/live"))
        await asyncio.sleep(0.05)
        refused = await client.get("/popular")
        assert_problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        let_go.set()
        assert [answer.status_code for answer in await asyncio.gather(*under_way, health)] == [200] * 3
        assert (await client.get("/popular")).status_code == 200


async def test_refused_and_crashed_requests_give_their_place_back(settings: Settings) -> None:
    async def crash(scope: object, receive: object, send: object) -> None:
        raise RuntimeError

    boundary = RequestBoundary(
        crash, settings=settings.model_copy(update={"max_in_flight": 1}), telemetry=Telemetry(), traffic=Traffic()
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(boundary), base_url="http://localhost") as client:
        for _ in range(3):
            assert (await client.get("/popular")).status_code == 500
            assert (await client.get("/popular?" + "a" * 40_000)).status_code == 414


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000 + b"]" * 10_000,
        b'{"user_id": ' + b'{"a": ' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b"[" * 100_000,
        b'{"user_id": "ann", "n": ' + b"1" * 10_000 + b"}",
        b'{"user_id": "ann", "price_min": 1e400}',
        b'{"user_id": "ann", "price_min": NaN}',
        b'{"user_id": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"\\ud800": "\\ud800", "user_id": "ann"}',
        b'{"user_id": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b'{"user_id": "a\\u0000b"}',
        b'{"user_id": "' + b"a" * 1_000_000 + b'"}',
        b'{"' + b"a" * 1_000_000 + b'": 1}',
    ],
)
@pytest.mark.parametrize("path", ["/recommend", "/events", "/rank", "/recommend/batch"])
async def test_bodies_made_to_break_a_reader_are_refused(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000


async def test_caller_who_leaves_in_the_middle_is_no_failure(api: RunningApp, caplog: pytest.LogCaptureFixture) -> None:
    app = api.client._transport.app  # type: ignore[attr-defined]
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"user_id":', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/recommend",
        "raw_path": b"/recommend",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert json.loads(sent[1]["body"])["status"] == 400
    assert "request failed" not in caplog.text
