"""What is cached of a version: how many users, how old their lists are, how much memory they take. Reads only.

Users are counted in every bucket. Bytes, ages and the form of buckets are those of a sample, spread evenly.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.cache_entries import packed_bytes
from model_store.cache_keys import COMPACT_ENTRY_BYTES, COMPACT_USERS, EntryLayout, Keys
from offline.refresh.entry_scan import scan_entries
from offline.refresh.ledger import Ledger
from offline.refresh.registered_caches import RegisteredCache

_SAMPLE_BUCKETS = 256
_BUCKETS = 10_000
"""Of a pipeline."""
_COMPACT = {b"listpack", b"ziplist"}


@dataclass(frozen=True)
class UnfinishedRefresh:
    """A refresh that was stopped, or is still running.

    Attributes:
        version: which it fills: the cache's own, or an extension of it.
        partial: whether it is of some users.
        shards_done: entered in its ledger.
        shards_at_most: how many there may be; those without a user are none. None if its plan cannot be read.
        entries_written: by those that are done.
    """

    version: str
    partial: bool
    shards_done: int
    shards_at_most: int | None
    entries_written: int


@dataclass(frozen=True)
class Sample:
    """What was looked at more closely.

    Attributes:
        users: how many of them.
        bytes_per_user: memory of their buckets, keys included.
        youngest_s, median_s, oldest_s: ages of their readable entries, in seconds; None without any.
        unreadable: share of entries that are of another format.
        expires_in_s: until the first of the buckets expires; None if one or another never does.
        compact: share of the buckets that Redis keeps compact.
        longest_entry: bytes.
        ranked: share of readable entries that are in a ranker's order.
    """

    users: int
    bytes_per_user: float
    youngest_s: int | None
    median_s: int | None
    oldest_s: int | None
    unreadable: float
    expires_in_s: int | None
    compact: float
    longest_entry: int
    ranked: float


@dataclass(frozen=True)
class CacheStats:
    """What is cached of one version.

    Attributes:
        version: the cache version.
        versions: those that answer from it.
        active: whether the served one is among them.
        users: entries.
        buckets: how many there may be.
        users_per_bucket, users_of_fullest_bucket: mean over all buckets, and the most.
        megabytes: of all entries, reckoned from the sample.
        sample: None without an entry.
        refreshes: those that have not finished.
    """

    version: str
    versions: tuple[str, ...]
    active: bool
    users: int
    buckets: int
    users_per_bucket: float
    users_of_fullest_bucket: int
    megabytes: float
    sample: Sample | None
    refreshes: list[UnfinishedRefresh]

    def compact_settings(self) -> tuple[int, int]:
        """What Redis must be told at least for these buckets to be compact: entries of a bucket, bytes of an entry."""
        longest = self.sample.longest_entry if self.sample else 0
        return max(COMPACT_USERS, self.users_of_fullest_bucket), max(COMPACT_ENTRY_BYTES, longest)


def cache_stats(redis: Any, keys: Keys, cache: RegisteredCache) -> CacheStats:
    """Look at one cache.

    Raises:
        RedisError: Redis fails.
    """
    layout = cache.layout
    users_B = users_of_buckets(redis, keys, layout)
    users = int(users_B.sum())
    filled = np.flatnonzero(users_B)
    sampled = filled[:: -(-len(filled) // _SAMPLE_BUCKETS) or 1].tolist()
    sample = _sample(redis, keys, layout, sampled)
    return CacheStats(
        version=layout.cache_version,
        versions=cache.versions,
        active=cache.active,
        users=users,
        buckets=layout.buckets,
        users_per_bucket=round(users / layout.buckets, 1),
        users_of_fullest_bucket=int(users_B.max()),
        megabytes=round(users * sample.bytes_per_user / 1e6, 2) if sample else 0.0,
        sample=sample,
        refreshes=_unfinished(redis, keys, cache.versions),
    )


def users_of_buckets(redis: Any, keys: Keys, layout: EntryLayout) -> NDArray[np.int64]:
    """How many entries each bucket holds; int64 [B].

    Raises:
        RedisError: Redis fails.
    """
    users_B = np.zeros(layout.buckets, dtype=np.int64)
    for start in range(0, layout.buckets, _BUCKETS):
        numbers = range(start, min(start + _BUCKETS, layout.buckets))
        pipeline = redis.pipeline(transaction=False)
        for number in numbers:
            pipeline.hlen(keys.bucket(layout, number))
        users_B[numbers.start : numbers.stop] = pipeline.execute()
    return users_B


def _sample(redis: Any, keys: Keys, layout: EntryLayout, buckets: list[int]) -> Sample | None:
    pipeline = redis.pipeline(transaction=False)
    for number in buckets:
        name = keys.bucket(layout, number)
        pipeline.memory_usage(name, samples=0)
        pipeline.object("ENCODING", name)
        pipeline.ttl(name)
        pipeline.hlen(name)
    answers = pipeline.execute(raise_on_error=False)
    # A bucket may have expired since it was counted; asked for its encoding, some servers call that an error.
    found = [row for row in zip(*[iter(answers)] * 4, strict=True) if row[3]]
    for answer in (answer for row in found for answer in row if isinstance(answer, Exception)):
        raise answer
    parts = list(scan_entries(redis, keys, layout, buckets))
    if not found or not parts:
        return None
    sizes, encodings, lifetimes, users = zip(*found, strict=True)
    readable = np.concatenate([part.entries.readable for part in parts])
    counts = np.concatenate([part.entries.counts for part in parts])
    decoded_at = np.concatenate([part.entries.decoded_at for part in parts])[readable]
    ranked = np.concatenate([part.entries.ranked for part in parts])[readable]
    ages = np.maximum(int(time.time()) - decoded_at, 0)
    return Sample(
        users=len(readable),
        bytes_per_user=round(sum(sizes) / sum(users), 1),
        youngest_s=int(ages.min()) if len(ages) else None,
        median_s=int(np.median(ages)) if len(ages) else None,
        oldest_s=int(ages.max()) if len(ages) else None,
        unreadable=round(1 - float(readable.mean()), 4),
        expires_in_s=min(lifetimes) if min(lifetimes) >= 0 else None,
        compact=round(sum(encoding in _COMPACT for encoding in encodings) / len(encodings), 4),
        longest_entry=packed_bytes(int(counts.max())),
        ranked=round(float(ranked.mean()), 4) if len(ranked) else 0.0,
    )


def _unfinished(redis: Any, keys: Keys, versions: Iterable[str]) -> list[UnfinishedRefresh]:
    found = []
    for version in versions:
        for partial in (False, True):
            unfinished = Ledger(redis, keys, version, partial=partial).read()
            if unfinished is not None:
                most = None if unfinished.plan is None else unfinished.plan.shards
                written = sum(shard.written for shard in unfinished.done.values())
                found.append(UnfinishedRefresh(version, partial, len(unfinished.done), most, written))
    return found
