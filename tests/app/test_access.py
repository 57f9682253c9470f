"""Keys, scopes, and the loopback rule."""

import pytest
from pydantic import SecretStr

from app.api_keys import ApiKeys, OpenBindRefused, is_local, refuse_open_bind
from app.settings import Settings
from tests.app.conftest import running

READER, WRITER, BOTH, ADMIN = ("reader-" + "r" * 16, "writer-" + "w" * 16, "both-" + "b" * 16, "admin-" + "a" * 16)
CONFIGURED = SecretStr(f"read:{READER}, write:{WRITER},read+write:{BOTH},admin:{ADMIN}")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("key", "may_read", "may_write"),
    [
        (READER, 200, 403),
        (WRITER, 403, 200),
        (BOTH, 200, 200),
        (ADMIN, 200, 200),
        ("wrong", 401, 401),
        (None, 401, 401),
    ],
)
async def test_scopes(settings: Settings, stored: object, key: str | None, may_read: int, may_write: int) -> None:
    headers = {} if key is None else {"X-API-Key": key}
    with_keys = settings.model_copy(update={"api_keys": CONFIGURED})
    async with running(with_keys, address=("203.0.113.7", 1)) as app:
        for path in ("/popular", "/recommend/ann", "/models", "/metrics", "/latency", "/users/ann/history"):
            assert (await app.client.get(path, headers=headers)).status_code == may_read
        event = [{"user_id": "ann", "item_id": "item-1"}]
        assert (await app.client.post("/events", json=event, headers=headers)).status_code == may_write
        assert (await app.client.delete("/users/ann", headers=headers)).status_code == may_write
        assert (await app.client.get("/health/ready")).status_code == 200


@pytest.mark.anyio
async def test_keys_are_never_logged(
    settings: Settings, stored: object, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    with_keys = settings.model_copy(update={"api_keys": CONFIGURED, "access_log": True})
    async with running(with_keys) as app:
        await app.client.get("/popular", headers={"X-API-Key": READER})
        await app.client.get("/popular", headers={"X-API-Key": "wrong" * 10})
        text = (await app.client.get("/metrics", headers={"X-API-Key": READER})).text
    said = caplog.text + text + "".join(capsys.readouterr()) + repr(with_keys) + repr(ApiKeys.parse(CONFIGURED))
    assert READER not in said
    assert "wrong" * 10 not in said


@pytest.mark.parametrize(
    "configured",
    ["k" * 20, "read:short", "root:" + "k" * 20, "read+root:" + "k" * 20, ":" + "k" * 20, f"read:{READER},{WRITER}"],
)
def test_malformed_keys_are_refused_without_being_shown(configured: str) -> None:
    with pytest.raises(ValueError, match="API key") as refused:
        Settings(api_keys=SecretStr(configured))
    assert "k" * 20 not in str(refused.value)
    assert WRITER not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_open_address_needs_keys(host: str) -> None:
    with pytest.raises(OpenBindRefused, match="TESSERA_API_KEYS"):
        refuse_open_bind(ApiKeys.parse(None), host)
    refuse_open_bind(ApiKeys.parse(CONFIGURED), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_local_address_needs_none(host: str) -> None:
    refuse_open_bind(ApiKeys.parse(None), host)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), (None, True), ("10.0.0.1", False), ("x", False)],
)
def test_local_addresses(address: str | None, local: bool) -> None:
    assert is_local(address) is local
