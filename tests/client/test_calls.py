"""Every method of both clients against the real service: over HTTP, and in the process over ASGI."""

import inspect
import logging
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.main import create_app
from tessera_client import (
    AsyncTessera,
    InvalidRequest,
    ItemListOptions,
    KeyRejected,
    NotAllowed,
    NotFound,
    PopularOptions,
    RecommendOptions,
    Tessera,
)
from tests.app.running_server import served
from tests.client.conftest import KEY, Service
from tests.client.every_call import CASES, ODD_IDS, answered, awaited, methods_of

pytestmark = pytest.mark.anyio

NOT_FOR_CLIENTS = {
    ("GET", "/"),
    ("GET", "/health/live"),
    ("GET", "/metrics"),
    ("GET", "/overview"),
    ("POST", "/items/lookup"),
}
"""Operations for load balancers, Prometheus and the dashboard; the alias under /api has clients of its own."""


@pytest.fixture
def client(service: Service) -> Iterator[Tessera]:
    with Tessera(service.url) as client:
        yield client


class Requests:
    """An application that notes the method and path of what it is asked."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.seen: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append((scope["method"], scope["path"]))
        await self._app(scope, receive, send)


@asynccontextmanager
async def in_process(service: Service, **arguments: Any) -> AsyncIterator[tuple[AsyncTessera, Any, Requests]]:
    """An application of its own, and the asynchronous client of it, without a network between."""
    app = create_app(service.settings)
    requests = Requests(app)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(requests, client=("127.0.0.1", 40000))
        async with AsyncTessera("http://localhost", transport=transport, **arguments) as client:
            yield client, app, requests


def operations_of(service: Service) -> set[tuple[str, str]]:
    """What the OpenAPI document lists."""
    paths = create_app(service.settings).openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_every_method_over_http(client: Tessera, service: Service) -> None:
    for case in CASES:
        answer = answered(case.call, client)
        assert case.holds(answer), (case.method, answer)
    assert {case.method for case in CASES} == methods_of(Tessera)


async def test_every_method_over_asgi_and_no_operation_of_the_api_without_one(service: Service) -> None:
    operations = operations_of(service)
    async with in_process(service) as (client, _, requests):
        for case in CASES:
            answer = await awaited(case.call, client)
            assert case.holds(answer), (case.method, answer)
    used = {_operation(method, path, operations) for method, path in requests.seen}
    missing = {one for one in operations - used - NOT_FOR_CLIENTS if not one[1].startswith("/api/")}
    assert missing == set(), "give the clients a method for it, or say in NOT_FOR_CLIENTS that it is none for them"


def _operation(method: str, path: str, operations: set[tuple[str, str]]) -> tuple[str, str]:
    """The operation that a request is of: that with the most of its path spelled out."""
    fitting = [one for one in operations if one[0] == method and re.fullmatch(re.sub(r"\{[^}]*\}", ".+", one[1]), path)]
    return max(fitting, key=lambda one: len(re.sub(r"\{[^}]*\}", "", one[1])))


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    assert methods_of(Tessera) == methods_of(AsyncTessera)
    for name in methods_of(Tessera):
        one, other = getattr(Tessera, name), getattr(AsyncTessera, name)
        assert inspect.signature(one) == inspect.signature(other), name
        assert inspect.iscoroutinefunction(other)
        assert one.__doc__.partition(".")[0].partition(",")[0] == other.__doc__.partition(".")[0].partition(",")[0]


def test_options_are_those_of_the_api(service: Service) -> None:
    paths = create_app(service.settings).openapi()["paths"]
    for path, options in (
        ("/recommend/{user_id}", RecommendOptions),
        ("/popular", PopularOptions),
        ("/latest", ItemListOptions),
        ("/similar/{item_id}", ItemListOptions),
    ):
        parameters = {one["name"] for one in paths[path]["get"]["parameters"] if one["in"] == "query"}
        assert parameters == set(options.__annotations__), path


def test_what_a_read_showed_is_not_shown_again_when_it_is_written_back(client: Tessera) -> None:
    shown = client.recommend("browser", n=3, write_back_type="read")
    deadline = time.monotonic() + 5
    while set(shown.item_ids) & set(client.recommend("browser", n=3).item_ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("user", ODD_IDS)
def test_ids_arrive_as_they_are(client: Tessera, service: Service, user: str) -> None:
    service.cache.put_history(user, [1, 2])
    assert (client.history(user).user_id, client.history(user).items) == (user, ("item-1", "item-2"))
    assert client.recommend(user, n=1).user_id == user
    assert client.forget_user(user).existed
    assert service.cache.history(user) == []


def test_the_lines_of_the_readme_run_as_they_stand(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^ {4}from tessera_client.*\n(?: {4}.*\n)+", text, re.MULTILINE)
    lines = textwrap.dedent(snippet).replace("http://127.0.0.1:8000", service.url)
    exec(compile(lines, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("popular ('item-")
    assert len(service.cache.history("USER")) == 1


def test_what_the_service_says_is_wrong_is_in_the_error(client: Tessera) -> None:
    with pytest.raises(NotFound) as lost:
        client.similar("no/such")
    assert (lost.value.status, lost.value.type) == (404, "urn:tessera:problem:item-not-found")
    assert lost.value.request_id
    assert lost.value.request_id in str(lost.value)
    with pytest.raises(InvalidRequest) as invalid:
        client.popular(n=0)
    (field,) = invalid.value.errors
    assert field.location == ("query", "n")
    assert "query.n: " in str(invalid.value)


def test_a_key_opens_what_it_may_and_is_shown_nowhere(
    service: Service, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    locked = service.settings.model_copy(update={"api_keys": SecretStr(f"admin:{KEY},read:a-reader-of-lists")})
    with served(locked, 1) as http:
        url = str(http.base_url)
        with Tessera(url, api_key=KEY) as client:
            assert client.forget_user("ann").user_id == "ann"
            assert KEY not in repr(client) + str(vars(client))
        with Tessera(url) as client, pytest.raises(KeyRejected):
            client.models()
        with Tessera(url, api_key="a-reader-of-lists") as client, pytest.raises(NotAllowed) as refused:
            client.forget_user("ann")
    assert "scope" in refused.value.detail
    assert KEY not in caplog.text + capsys.readouterr().out


def test_a_key_that_cannot_be_sent_is_refused_unrepeated() -> None:
    for key in ("", "sword fish", "swordfish\n", "schwärt"):
        with pytest.raises(ValueError, match="api_key") as refused:
            Tessera(api_key=key)
        assert not key or key not in str(refused.value)


def test_the_client_loads_httpx_and_nothing_else_of_the_package() -> None:
    check = (
        "import sys; import tessera_client; "
        "ours = {'app', 'offline', 'model_store', 'command_line', 'pydantic', 'numpy', 'orjson', 'redis', 'fastapi'}; "
        "sys.exit(str(ours & set(sys.modules)) if ours & set(sys.modules) else 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
