"""The file of hashed keys: what it may hold, and that it is followed."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from app.key_file import KeyFileInvalid, read_key_file
from app.main import create_app, serve
from app.settings import Settings
from tests.app.conftest import running
from tests.app.running_server import served

OLD, NEW = "old-key-" + "o" * 20, "new-key-" + "n" * 20


def line(key: str, rest: str = "", scopes: str = "read") -> str:
    return f"{scopes}:sha256={sha256(key.encode()).hexdigest()}{rest}\n"


def test_comments_names_dates_and_rates(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(
        "# ours\n\n" + line(OLD, " name=shop expires=2027-01-31 rate=2.5  # until the move") + line(NEW, scopes="admin")
    )
    first, second = read_key_file(file).grants
    assert (first.name, first.rate, first.scopes) == ("shop", 2.5, {"read"})
    # The first moment of February.
    assert first.expires == 1801440000
    assert (second.name, second.expires, second.rate) == (None, None, None)
    assert second.scopes == {"read", "write", "admin"}


@pytest.mark.parametrize(
    "wrong",
    [
        f"read:{NEW}",
        NEW,
        line(NEW)[:-5],
        line(NEW, scopes="root"),
        line(NEW, scopes=""),
        line(NEW, f" {NEW}"),
        line(NEW, f" secret={NEW}"),
        line(NEW, " name=a name=b"),
        line(NEW, " name=a/b"),
        line(NEW, " expires=soon"),
        line(NEW, " expires=2027-02-30"),
        line(NEW, " rate=-1"),
        line(NEW, " rate=nan"),
        line(NEW, " rate=inf"),
        line(OLD),
        "\xff\x00",
    ],
)
def test_what_is_not_a_hashed_key_is_refused_by_its_line_and_not_shown(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n" + line(OLD) + wrong, encoding="latin-1")
    with pytest.raises(KeyFileInvalid, match=r"keys:3: ") as refused:
        read_key_file(file)
    assert NEW not in str(refused.value)
    assert sha256(NEW.encode()).hexdigest()[:20] not in str(refused.value)


@pytest.mark.parametrize("content", ["", "# nobody\n", None])
def test_a_file_without_keys_is_refused(settings: Settings, tmp_path: Path, content: str | None) -> None:
    """Or else emptying it would open the service to everybody on the machine."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with_file = settings.model_copy(update={"api_keys_file": file})
    with pytest.raises(KeyFileInvalid, match="keys: "):
        create_app(with_file)
    with pytest.raises(KeyFileInvalid, match="keys: "):
        serve(with_file, "127.0.0.1", 0)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(KeyFileInvalid, match="larger"):
        read_key_file(file)


async def _until(what: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 10
    while not await what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_keys_are_rotated_while_the_server_runs(
    settings: Settings, stored: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(line(OLD, " name=shop"))

    async def good(key: str) -> bool:
        return (await app.client.get("/popular", headers={"X-API-Key": key})).status_code == 200

    async with running(settings.model_copy(update={"api_keys_file": file})) as app:
        assert (await good(OLD), await good(NEW)) == (True, False)
        # Written beside it and renamed, so that nobody reads half of it.
        (tmp_path / "next").write_text(line(OLD, " name=shop") + line(NEW, " name=shop"))
        os.replace(tmp_path / "next", file)
        await _until(lambda: good(NEW))
        assert await good(OLD)
        file.write_text(line(NEW, " name=shop"))

        async def old_is_gone() -> bool:
            return not await good(OLD)

        await _until(old_is_gone)
        assert await good(NEW)

        async def told() -> bool:
            return "keys not changed" in caplog.text

        for broken in (f"read:{NEW}\n", None):
            caplog.clear()
            file.unlink()
            if broken is not None:
                file.write_text(broken)
            await _until(told)
            assert await good(NEW)
            assert NEW not in caplog.text
        file.write_text(line(OLD))
        await _until(lambda: good(OLD))
        assert not await good(NEW)


def test_every_worker_follows_the_file(settings: Settings, stored: object, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line(OLD))
    with served(settings.model_copy(update={"api_keys_file": file}), workers=2) as client:

        def statuses(key: str) -> set[int]:
            # A new connection each time, so that both workers get some.
            url = f"{client.base_url}/popular"
            return {httpx.get(url, headers={"X-API-Key": key}, timeout=10).status_code for _ in range(20)}

        assert (statuses(OLD), statuses(NEW)) == ({200}, {401})
        file.write_text(line(NEW))
        deadline = time.monotonic() + 20
        while statuses(NEW) != {200}:
            assert time.monotonic() < deadline
        assert statuses(OLD) == {401}
