"""A real server that Gorse's clients are pointed at."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gorse import AsyncGorse, Gorse

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.gorse.pygorse_calls import KEY, READER, Call, calling
from tests.app.running_server import served


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
    """Calls a method of PyGorse's, of both of its clients."""
    return calling(request.param, server)


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of this test alone."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
