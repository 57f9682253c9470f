"""The one place that makes Redis clients: for the forms of TESSERA_REDIS_URL, with a bound on every wait.

redis://[user:password@]host:port/db        rediss:// with TLS        unix:///path?db=0
redis+cluster://host:port                    rediss+cluster:// with TLS
redis+sentinel://[user:password@]host:port,host:port/service/db
"""

from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from model_store.errors import TesseraError

RedisClient: TypeAlias = Redis | RedisCluster

_CLIENT_NAME = "tessera"
_SENTINEL_PORT = 26379


class RedisUrlInvalid(TesseraError):
    """TESSERA_REDIS_URL is of no form we know. The message never repeats it: it may hold a password."""


def connect(url: str, *, connect_timeout_s: float, timeout_s: float, max_connections: int) -> RedisClient:
    """Make a client; nothing is sent before its first command.

    Args:
        url: one of the forms above.
        connect_timeout_s: bound on opening a connection, or on waiting for a free one.
        timeout_s: bound on one answer; callers with less time set a tighter one around the call.
        max_connections: connections kept at most.

    Raises:
        RedisUrlInvalid: the URL cannot be read.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise RedisUrlInvalid(
            "TESSERA_REDIS_URL: expected scheme://...; redis, rediss, unix, redis+cluster, redis+sentinel"
        )
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout_s,
        "socket_timeout": timeout_s,
        "client_name": _CLIENT_NAME,
        # A retry would be time that a request waits; whoever asked has something better to do.
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        match scheme:
            case "redis" | "rediss" | "unix":
                if scheme != "unix":
                    options["socket_keepalive"] = True
                pool = BlockingConnectionPool.from_url(
                    url, max_connections=max_connections, timeout=connect_timeout_s, **options
                )
                return Redis.from_pool(pool)
            case "redis+cluster" | "rediss+cluster":
                return RedisCluster.from_url(
                    f"{scheme.removesuffix('+cluster')}://{rest}",
                    max_connections=max_connections,
                    socket_keepalive=True,
                    **options,
                )
            case "redis+sentinel":
                return _through_sentinels(url, max_connections, options)
    except ValueError as error:
        raise RedisUrlInvalid(f"TESSERA_REDIS_URL ({scheme}://...) cannot be read: {type(error).__name__}") from None
    raise RedisUrlInvalid(
        f"TESSERA_REDIS_URL: scheme {scheme!r} is none of redis, rediss, unix, redis+cluster, redis+sentinel"
    )


def connections_of(client: RedisClient) -> tuple[int, int]:
    """Connections of a client: used, idle."""
    if isinstance(client, RedisCluster):
        opened = sum(len(node._connections) for node in client.get_nodes())
        idle = sum(len(node._free) for node in client.get_nodes())
        return opened - idle, idle
    pool = client.connection_pool
    return len(pool._in_use_connections), len(pool._available_connections)


def _through_sentinels(url: str, max_connections: int, options: dict[str, Any]) -> RedisClient:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    sentinels = [(host, int(port or _SENTINEL_PORT)) for host, _, port in (h.partition(":") for h in hosts.split(","))]
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not all(host for host, _ in sentinels):
        raise ValueError("no service or no host")
    user, _, password = (unquote(part) for part in credentials.partition(":"))
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        sentinels, sentinel_kwargs={**options, "client_name": f"{_CLIENT_NAME}-sentinel"}
    )
    client: RedisClient = sentinel.master_for(
        service,
        db=int(database or 0),
        username=user or None,
        password=password or None,
        max_connections=max_connections,
        socket_keepalive=True,
        **options,
    )
    return client
