"""Every way to fail has the same shape."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.conftest import RunningApp, running
from tests.app.light_bundle import publish_light_bundle

pytestmark = pytest.mark.anyio


def assert_problem(answer: httpx.Response, status: int, name: str) -> None:
    """The contract of RFC 9457 as this service keeps it."""
    body = answer.json()
    assert answer.status_code == body["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:tessera:problem:{name}"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert set(body) <= {"type", "title", "status", "detail", "request_id", "errors"}
    assert ("errors" in body) == (name == "invalid-request")
    for error in body.get("errors", ()):
        assert set(error) == {"location", "message", "type"}
        assert error["location"][0] in ("header", "query", "path", "body")


@pytest.mark.parametrize(
    "target",
    [
        "/recommend/ann?n=0",
        "/recommend/ann?n=101",
        "/recommend/ann?n=ten",
        "/recommend/ann?offset=-1",
        "/recommend/ann?offset=1001",
        "/recommend/ann?count=5",
        "/recommend/ann?q=%20%09",
        "/recommend/ann?q=" + "a" * 501,
        "/recommend/ann?within=store",
        "/recommend/ann?only=",
        "/recommend/ann?max_per_prefix=0",
        "/recommend/ann?max_per_prefix=two",
        "/recommend/ann?max_per_prefix=1&prefix_levels=0",
        "/recommend/ann?max_per_prefix=1&prefix_levels=4",
        "/popular?only=item-1",
        "/recommend/ann?price_min=nan",
        "/recommend/ann?price_min=-1",
        "/recommend/ann?price_min=5&price_max=4",
        "/recommend/ann?category=",
        "/recommend/ann?in_stock=maybe",
        "/recommend/" + "a" * 257,
        "/recommend/",
        "/similar/item-1?fresh=true",
        "/popular?user=ann",
        "/models?x=1",
        "/metrics?x=1",
        "/latency?x=1",
        "/health/live?x=1",
        "/health/ready?x=1",
        "/users/ann/history?x=1",
    ],
)
async def test_parameters_out_of_bounds_and_unknown_ones(client: httpx.AsyncClient, target: str) -> None:
    assert_problem(await client.get(target), 422, "invalid-request")


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/recommend", b"not json"),
        ("/recommend", b"{}"),
        ("/recommend", b'{"user_id": "ann", "history": []}'),
        ("/recommend", b'{"user_id": "ann", "count": 5}'),
        ("/recommend", b'{"user_id": "ann", "history": [], "q": "warm"}'),
        ("/recommend", b'{"q": "  "}'),
        ("/recommend", b'{"user_id": "ann", "within": true}'),
        ("/recommend", b'{"user_id": "ann", "only": "item-1"}'),
        ("/recommend", b'{"user_id": "ann", "only": [7]}'),
        ("/recommend", b'{"user_id": "ann", "max_per_prefix": -1}'),
        ("/recommend?n=5", b'{"user_id": "ann"}'),
        ("/recommend/batch", b'{"user_ids": []}'),
        ("/recommend/batch", b'{"user_ids": ["a"], "n": 1000}'),
        ("/events", b'{"user_id": "ann"}'),
        ("/events", b"[]"),
        ("/events?dry=1", b'[{"user_id": "ann", "item_id": "item-1"}]'),
    ],
)
async def test_bodies_that_make_no_sense(client: httpx.AsyncClient, target: str, body: bytes) -> None:
    answer = await client.post(target, content=body, headers={"content-type": "application/json"})
    assert_problem(answer, 422, "invalid-request")


async def test_what_was_sent_is_not_repeated(client: httpx.AsyncClient) -> None:
    answer = await client.post("/recommend", json={"user_id": "a-private-id", "history": ["x"], "secret": "hush"})
    assert "a-private-id" not in answer.text
    assert "hush" not in answer.text


async def test_unknown_path(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/nothing/here"), 404, "no-such-page")


async def test_wrong_method(client: httpx.AsyncClient) -> None:
    answer = await client.put("/popular")
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET"


async def test_unknown_item(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/similar/nothing"), 404, "item-not-found")


async def test_query_without_a_model_for_it(settings: Settings, tmp_path: Path) -> None:
    publish_light_bundle(tmp_path / "store", tasks=())
    async with running(settings.model_copy(update={"store": tmp_path / "store"})) as app:
        for answer in (
            await app.client.get("/recommend/ann?q=warm"),
            await app.client.post("/recommend", json={"history": [], "q": "warm"}),
            await app.client.post("/recommend/batch", json={"user_ids": ["a"], "q": "b"}),
        ):
            assert_problem(answer, 501, "query-not-supported")


async def test_body_too_large(client: httpx.AsyncClient) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (1 << 19)

    assert_problem(await client.post("/events", content=b" " * (1 << 21)), 413, "body-too-large")
    assert_problem(await client.post("/events", content=in_chunks()), 413, "body-too-large")


async def test_body_in_chunks_is_read_whole(client: httpx.AsyncClient) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        yield b'{"user_id":'
        yield b' "ann", "n": 1}'

    headers = {"content-type": "application/json"}
    assert (await client.post("/recommend", content=in_chunks(), headers=headers)).status_code == 200


async def test_access_problems(settings: Settings) -> None:
    async with running(settings, address=("203.0.113.7", 1)) as app:
        assert_problem(await app.client.get("/popular"), 403, "not-local")
    with_keys = Settings(**settings.model_dump() | {"api_keys": "read:" + "k" * 16})
    async with running(with_keys) as app:
        assert_problem(await app.client.get("/popular"), 401, "key-required")
        refused = await app.client.delete("/users/ann", headers={"X-API-Key": "k" * 16})
        assert_problem(refused, 403, "scope-missing")


async def test_crash_shows_nothing_of_its_inside(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(settings)

    async def crash() -> None:
        raise RuntimeError("the password is swordfish")

    app.add_api_route("/crash", crash)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tessera") as client:
        answer = await client.get("/crash", headers={"X-Request-ID": "mine-1"})
    assert_problem(answer, 500, "internal-error")
    assert answer.json()["request_id"] == "mine-1"
    assert "swordfish" not in answer.text
    assert "swordfish" in caplog.text


async def test_request_id_of_the_caller_is_kept_only_if_harmless(client: httpx.AsyncClient) -> None:
    kept = await client.get("/health/live", headers={"X-Request-ID": "trace.7-a_b"})
    assert kept.headers["x-request-id"] == "trace.7-a_b"
    replaced = await client.get("/health/live", headers={"X-Request-ID": 'x" onload="'})
    assert replaced.headers["x-request-id"] != 'x" onload="'


async def test_problems_are_in_openapi(api: RunningApp) -> None:
    document = (await api.client.get("/openapi.json")).json()
    operations = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]
    assert len(operations) == 69
    for path, operation in operations:
        failures = {status: said for status, said in operation["responses"].items() if status >= "400"}
        assert {"422", "500", "413"} <= set(failures), path
        for said in failures.values():
            assert list(said["content"]) == ["application/problem+json"], path
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "501" in document["paths"]["/recommend/{user_id}"]["get"]["responses"]
    assert "503" in document["paths"]["/events"]["post"]["responses"]


async def test_a_body_without_its_type_is_told_to_give_it(client: httpx.AsyncClient) -> None:
    for path in ("/rank", "/items/lookup"):
        untyped = await client.post(path, content=b"[]", headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert_problem(untyped, 422, "invalid-request")
        assert "Content-Type: application/json" in untyped.json()["detail"]
    typed = await client.post("/rank", json=[])
    assert_problem(typed, 422, "invalid-request")
    assert "Content-Type" not in typed.json()["detail"]
