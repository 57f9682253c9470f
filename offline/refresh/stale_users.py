"""The users who need a refresh: news since their decode, or no entry at all."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from model_store.cache_keys import EntryLayout, Keys

_PIPELINE_COMMANDS = 1000


def stale_users(redis: Any, keys: Keys, layout: EntryLayout, users: Iterable[str]) -> Iterator[str]:
    """Those of `users` who had events since their entry was decoded, or have no entry of this version."""
    dirty = {user.decode() for user in redis.zrange(keys.dirty, 0, -1)}
    unseen = iter(users)
    while some := list(islice(unseen, _PIPELINE_COMMANDS)):
        pipeline = redis.pipeline(transaction=False)
        for user in some:
            pipeline.hexists(keys.bucket_of(layout, user), user)
        yield from (user for user, exists in zip(some, pipeline.execute(), strict=True) if user in dirty or not exists)
