"""What browsers are told, and what pages of other origins may do."""

import httpx
import pytest

from app.settings import Settings
from tests.app.conftest import RunningApp, running

pytestmark = pytest.mark.anyio

EXPECTED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def assert_safe(answer: httpx.Response) -> None:
    assert {name: answer.headers.get(name) for name in EXPECTED} == EXPECTED
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "target", ["/recommend/ann", "/metrics", "/openapi.json", "/nothing", "/popular?n=0", "/popular?" + "a" * 40_000]
)
async def test_every_answer_has_them(client: httpx.AsyncClient, target: str) -> None:
    assert_safe(await client.get(target))


async def test_a_crash_has_them(api: RunningApp) -> None:
    async def crash() -> None:
        raise RuntimeError

    api.client._transport.app.add_api_route("/crash", crash)  # type: ignore[attr-defined]
    answer = await api.client.get("/crash")
    assert answer.status_code == 500
    assert_safe(answer)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
async def test_no_page_loads_from_other_hosts(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_no_redirect_is_made_of_the_host_header(client: httpx.AsyncClient) -> None:
    answer = await client.get("/popular/", headers={"Host": "attacker.example"})
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}


async def test_no_origin_is_allowed_unless_listed(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.get("/popular", headers={"Origin": "https://shop.example"}),
        await client.options("/events", headers={"Origin": "https://shop.example", **PREFLIGHT}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_listed_origins_are_allowed_and_no_others(settings: Settings, stored: object) -> None:
    listed = settings.model_copy(update={"cors_origins": "https://shop.example"})
    async with running(listed) as app:
        preflight = await app.client.options("/events", headers={"Origin": "https://shop.example", **PREFLIGHT})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
        # An error too is for the page to read.
        for path, status in (
            ("/recommend/ann", 200),
            ("/popular", 200),
            ("/popular?n=0", 422),
            ("/popular?" + "a" * 40_000, 414),
        ):
            answer = await app.client.get(path, headers={"Origin": "https://shop.example"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
            assert "access-control-allow-credentials" not in answer.headers
        other = await app.client.get("/popular", headers={"Origin": "https://shop.example.attacker.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = await app.client.options("/events", headers={"Origin": "https://attacker.example", **PREFLIGHT})
        assert refused.status_code == 400


@pytest.mark.parametrize("wrong", ["*", "shop.example", "https://*.shop.example", "https://a.example/path", "null"])
def test_origins_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="origins"):
        Settings(cors_origins=wrong)
