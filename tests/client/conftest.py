"""A real service on a port, with a decoder whose ranking a test can tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.conftest import Cache
from tests.app.light_bundle import publish_light_bundle
from tests.app.plain_decoder import plain_decoder
from tests.app.running_server import served

KEY = "swordfish-of-the-admin"


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        url: where it answers.
        settings: it runs with.
        cache: what is in its Redis.
    """

    url: str
    settings: Settings
    cache: Cache


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("service")
    bundle: Bundle = publish_light_bundle(folder / "store")
    url = embedded_redis.ensure_running(folder / "home")
    with plain_decoder(bundle.item_codes.codes_NL, folder / "decoder.sock") as decoder:
        settings = Settings(
            store=folder / "store",
            home=folder / "home",
            redis_cooldown_ms=50,
            decoder_address=decoder.address,
            beam_width=20,
        )
        try:
            with redis.Redis.from_url(url) as stored, served(settings, 1) as http:
                yield Service(str(http.base_url), settings, Cache(stored, bundle, settings.namespace))
        finally:
            embedded_redis.stop(folder / "home")
