"""How full a Redis is, all of its primary nodes together."""

from dataclasses import dataclass
from typing import Any

from redis import RedisCluster

from model_store.cache_keys import Keys


@dataclass(frozen=True)
class RedisStats:
    """What the servers say of themselves.

    Attributes:
        server: version and allocator.
        used_memory: bytes.
        max_memory: bytes; 0 for no bound.
        keys: of every kind, other applications' included.
        dirty: users with events since their entry was decoded.
        takes_listpack: whether settings of compact hashes are called by their name of Redis 7 and later.
    """

    server: str
    used_memory: int
    max_memory: int
    keys: int
    dirty: int
    takes_listpack: bool


def redis_stats(redis: Any, keys: Keys) -> RedisStats:
    """Ask.

    Raises:
        RedisError: Redis fails.
    """
    if isinstance(redis, RedisCluster):
        # One after the other: asked together, they answer in another form if there is only one.
        primaries: list[Any] = redis.get_primaries()  # type: ignore[no-untyped-call]
        nodes = [redis.info(target_nodes=node) for node in primaries]
        count = sum(redis.dbsize(target_nodes=node) for node in primaries)
    else:
        nodes, count = [redis.info()], redis.dbsize()
    version = str(nodes[0]["redis_version"])
    return RedisStats(
        server=f"{version}, {nodes[0].get('mem_allocator', 'unknown allocator')}",
        used_memory=sum(node["used_memory"] for node in nodes),
        max_memory=sum(node.get("maxmemory", 0) for node in nodes),
        keys=count,
        dirty=redis.zcard(keys.dirty),
        takes_listpack=int(version.partition(".")[0]) >= 7,
    )
