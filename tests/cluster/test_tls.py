"""Refresh and service on a Redis behind TLS and a password, and what they say when either is wrong."""

from urllib.parse import quote

import pytest

from app.settings import Settings
from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from offline.redis_connection import connect
from tests.app.conftest import Cache, ids, running
from tests.app.light_bundle import publish_light_bundle
from tests.tls import PASSWORD, make_certificates, tls_server, tls_through_a_proxy

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=[tls_server, tls_through_a_proxy], ids=["server", "proxy"])
def port(request, certificates, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp("redis"), certificates) as found:
        yield found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return publish_light_bundle(tmp_path_factory.mktemp("store"))


@pytest.fixture
def address(port, certificates):
    """The address, with whatever password and CA."""

    def made(password=PASSWORD, ca=certificates.ca):
        return f"rediss://:{password}@127.0.0.1:{port}/0" + (f"?ssl_ca_certs={quote(str(ca))}" if ca else "")

    return made


def settings_for(bundle, home, url):
    return Settings(store=bundle.path.parent, home=home, redis_url=url, namespace="test", redis_timeout_ms=1000)


async def test_the_batch_client_writes_and_the_service_answers(address, bundle, tmp_path):
    client = connect(address())
    keys = Keys("test")
    Cache(client, bundle, keys.namespace).put_entry("ann", [1, 2, 5])
    async with running(settings_for(bundle, tmp_path, address())) as app:
        answer = await app.client.get("/recommend/ann", params={"n": 3})
        assert (answer.json()["source"], ids(answer)) == ("cache", ["item-1", "item-2", "item-5"])
        recorded = await app.client.post("/events", json=[{"user_id": "ann", "item_id": "item-7"}])
        assert recorded.is_success
    assert client.lrange(keys.history("ann"), -1, -1) == [b"item-7"]


@pytest.fixture(params=["password", "no CA", "another CA", "no file"])
def wrong(request, address, tmp_path):
    """A wrong address, what the batch client says of it, and the kind of failure that the service names."""
    another = make_certificates(tmp_path / "another")
    return {
        "password": (address(password="shark"), "refuses the user or the password", "AuthenticationError"),
        "no CA": (address(ca=None), "not trusted.*ssl_ca_certs", "SSLCertVerificationError"),
        "another CA": (address(ca=another.ca), "not trusted.*ssl_ca_certs", "SSLCertVerificationError"),
        "no file": (address(ca=tmp_path / "none.crt"), "is missing", "ConnectionError"),
    }[request.param]


def test_the_batch_client_says_in_one_line_what_is_wrong(wrong):
    url, said, _ = wrong
    with pytest.raises(TesseraError, match=said) as failure:
        connect(url)
    message = str(failure.value)
    assert "\n" not in message
    assert not any(secret in message for secret in (PASSWORD, "shark"))


async def test_the_service_starts_and_names_the_kind_of_failure(wrong, bundle, tmp_path, capfd):
    url, _, kind = wrong
    async with running(settings_for(bundle, tmp_path, url)) as app:
        ready = (await app.client.get("/health/ready")).json()
        assert ready["status"] == "degraded"
        answer = (await app.client.get("/recommend/ann")).json()
        assert (answer["items"] != [], answer["degraded"]) == (True, True)
        metrics = (await app.client.get("/metrics")).text
    assert f'kind="{kind}"' in metrics
    assert not any(
        secret in text for secret in (PASSWORD, "shark") for text in (str(ready), metrics, *capfd.readouterr())
    )


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "rediss+cluster"])
def test_an_address_where_nothing_answers_is_a_clear_error(scheme):
    with pytest.raises(TesseraError, match="does not answer") as failure:
        connect(f"{scheme}://:{PASSWORD}@127.0.0.1:1")
    assert PASSWORD not in str(failure.value)
    assert "\n" not in str(failure.value)


async def test_the_service_goes_on_without_a_cluster(bundle, tmp_path):
    async with running(settings_for(bundle, tmp_path, "redis+cluster://127.0.0.1:1")) as app:
        answer = (await app.client.get("/recommend/ann")).json()
    assert (answer["items"] != [], answer["degraded"]) == (True, True)
