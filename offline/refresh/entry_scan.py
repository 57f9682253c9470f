"""Everything that is cached of a version, a part at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from model_store.cache_entries import EntryTable
from model_store.cache_keys import EntryLayout, Keys

_BUCKETS = 64


@dataclass(frozen=True)
class CachedUsers:
    """Some users and their entries, side by side.

    Attributes:
        users: ids.
        entries: theirs, in the same order.
    """

    users: list[str]
    entries: EntryTable


def scan_entries(
    redis: Any, keys: Keys, layout: EntryLayout, buckets: Iterable[int] | None = None
) -> Iterator[CachedUsers]:
    """Read a version's entries, some thousand at a time. What is written meanwhile may or may not be among them.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        layout: where the entries are.
        buckets: numbers of the buckets to read; all by default.

    Raises:
        RedisError: Redis fails.
    """
    numbers = iter(range(layout.buckets) if buckets is None else buckets)
    while some := list(islice(numbers, _BUCKETS)):
        pipeline = redis.pipeline(transaction=False)
        for number in some:
            pipeline.hgetall(keys.bucket(layout, number))
        found = [entry for bucket in pipeline.execute() for entry in bucket.items()]
        if found:
            yield CachedUsers([user.decode() for user, _ in found], EntryTable.unpack([value for _, value in found]))
