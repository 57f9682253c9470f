"""Delete everything that is cached of a version, before it expires by itself."""

from typing import Any

from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from offline.refresh.ledger import Ledger
from offline.refresh.registered_caches import RegisteredCache

_BUCKETS = 1000
"""Of a pipeline."""


def purge(redis: Any, keys: Keys, cache: RegisteredCache, *, force: bool = False) -> int:
    """Delete the entries of a cache, what is noted of its refreshes, and at last its name. Histories stay.

    Killed half-way, it is done by doing it again.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        cache: which.
        force: even if the served version answers from it.

    Returns:
        How many entries went.

    Raises:
        TesseraError: the served version answers from it.
        RedisError: Redis fails; some entries may be gone.
    """
    layout = cache.layout
    if cache.active and not force:
        raise TesseraError(
            f"{layout.cache_version} is being served, and without entries every user is decoded live; "
            "activate another version first, or give --force"
        )
    # First, or a refresh that is resumed would pass over shards whose entries are gone.
    for version in cache.versions:
        for partial in (False, True):
            Ledger(redis, keys, version, partial=partial).close()
    entries = 0
    for start in range(0, layout.buckets, _BUCKETS):
        pipeline = redis.pipeline(transaction=False)
        for number in range(start, min(start + _BUCKETS, layout.buckets)):
            pipeline.hlen(keys.bucket(layout, number))
            pipeline.unlink(keys.bucket(layout, number))
        entries += sum(pipeline.execute()[::2])
    redis.delete(keys.kept(layout.cache_version))
    redis.hdel(keys.caches, layout.cache_version)
    return entries
