"""Every form of address reaches a real server, and no message repeats a password."""

from pathlib import Path

import pytest
import redis

from app.embedded_redis import ensure_running
from app.redis_connection import RedisUrlInvalid, connect
from model_store.cache_keys import Keys
from tests.redis_servers import server, wait_until

pytestmark = pytest.mark.anyio

BOUNDS = {"connect_timeout_s": 1.0, "timeout_s": 1.0, "max_connections": 4}


async def assert_works(url: str) -> None:
    """A pipeline as the service sends it: several keys, no transaction."""
    client = connect(url, **BOUNDS)  # type: ignore[arg-type]
    keys = Keys("t")
    pipeline = client.pipeline(transaction=False)
    for user in ("ann", "bob", "cleo"):
        pipeline.rpush(keys.history(user), "item")
        pipeline.lrange(keys.history(user), 0, -1)
        pipeline.delete(keys.history(user))
    assert await pipeline.execute() == [1, [b"item"], 1] * 3
    await client.aclose()


async def test_unix_socket(home: Path) -> None:
    await assert_works(ensure_running(home))


async def test_password_and_database(tmp_path: Path) -> None:
    with server(tmp_path / "r") as port:
        redis.Redis(port=port).config_set("requirepass", "swordfish")
        await assert_works(f"redis://:swordfish@127.0.0.1:{port}/3")


async def test_cluster(tmp_path: Path) -> None:
    with server(tmp_path / "c", "--cluster-enabled", "yes") as port:
        redis.Redis(port=port).execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: redis.Redis(port=port).cluster("info")["cluster_state"] == "ok")
        await assert_works(f"redis+cluster://127.0.0.1:{port}")


async def test_sentinel(tmp_path: Path) -> None:
    configuration = tmp_path / "sentinel.conf"
    with server(tmp_path / "m") as master:
        configuration.write_text(f"sentinel monitor shop 127.0.0.1 {master} 1\n")
        with server(tmp_path / "s", str(configuration), "--sentinel") as sentinel:
            await assert_works(f"redis+sentinel://127.0.0.1:{sentinel}/shop/0")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://user:swordfish@host",
        "redis://:swordfish@host:port",
        "redis+sentinel://:swordfish@host:26379",
        "redis+sentinel://:swordfish@host:26379/shop/first",
    ],
)
async def test_addresses_that_make_no_sense(url: str) -> None:
    with pytest.raises(RedisUrlInvalid, match="TESSERA_REDIS_URL") as refused:
        connect(url, **BOUNDS)  # type: ignore[arg-type]
    assert "swordfish" not in str(refused.value)
