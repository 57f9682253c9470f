"""What Redis holds for the API: decoded entries, histories, who has news, and which version is served.

Any key may be missing at any time. Redis itself may be missing too: every method then raises CacheUnavailable, within
its timeout, and for a while at once, so that an outage does not cost every request its timeout.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ssl import SSLError
from typing import Any, TypeAlias, cast

from redis.asyncio.client import Pipeline
from redis.exceptions import RedisClusterException, RedisError

from app.circuit_breaker import CircuitBreaker
from app.redis_connection import RedisClient
from app.settings import Settings
from app.telemetry import Telemetry
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import EntryLayout, Keys
from model_store.errors import CacheEntryUnreadable, causes_of

# One slow answer is no outage; three in a row without a good one between them are.
_FAILURES_TO_OPEN = 3
_READS_PER_USER = 2
ITEM_CHANGES_READ = 64
"""Entries of the log of item changes that a read takes along at most."""
_EXPIRY_PUT_OFF_PER_LIFETIME = 8
_EXPIRIES_PER_CALL = 500
_SERVED_KEPT_S = 3 * 3600
_DEMAND_KEPT_S = 24 * 3600
_DEMAND_USERS = 1_000_000


LogEntry: TypeAlias = tuple[bytes, dict[bytes, bytes]]
"""An entry of a stream: its id and its fields."""


class CacheUnavailable(Exception):
    """Redis did not do what was asked, in time or at all. Says no more than the kind of failure."""


@dataclass(frozen=True, slots=True)
class UserState:
    """What is known of one user.

    Attributes:
        entry: the decoded list of the version asked for, None when there is none that can be read.
        history: item ids, oldest first.
        dirty: whether the entry was decoded from another history: events have come since.
    """

    entry: CacheEntry | None = None
    history: tuple[str, ...] = ()
    dirty: bool = False

    def age_s(self, now: float) -> float:
        """Age of the entry at a time in Unix seconds; 0 without one."""
        return max(now - self.entry.decoded_at, 0.0) if self.entry is not None else 0.0

    def outdated(self, now: float, max_age_s: float) -> bool:
        """Whether there is no entry, or one too old or without the user's latest events."""
        return self.entry is None or self.dirty or self.age_s(now) > max_age_s


@dataclass(slots=True)
class AnswerCounts:
    """Answers of one minute to users with a history: all of them, and the fresh ones among them."""

    all: int = 0
    fresh: int = 0


class RecommendationCache:
    """Reads and writes Redis. What answers a request is one pipeline, and so one round trip.

    Args:
        client: from `app.redis_connection`; closed by `aclose`.
        settings: namespace, timeouts, lifetimes and bounds.
        telemetry: counts failures and unreadable entries.
        on_active: called with the version in `{ns}:active` whenever a read passes by it.
        next_item_change: called for the id from which on a read takes the log of item changes along.
        on_item_changes: called with what it found there, ITEM_CHANGES_READ entries at most.
    """

    def __init__(
        self,
        client: RedisClient,
        settings: Settings,
        telemetry: Telemetry,
        *,
        on_active: Callable[[str | None], None] = lambda version: None,
        next_item_change: Callable[[], str] = lambda: "-",
        on_item_changes: Callable[[Sequence[LogEntry]], None] = lambda entries: None,
    ) -> None:
        self._client = client
        self._keys = Keys(settings.namespace)
        self._settings = settings
        self._telemetry = telemetry
        self.on_active = on_active
        self.next_item_change = next_item_change
        self.on_item_changes = on_item_changes
        cooldown_s = settings.redis_cooldown_ms / 1000
        self._breaker = CircuitBreaker(
            failures_to_open=_FAILURES_TO_OPEN, first_pause_s=cooldown_s, longest_pause_s=cooldown_s
        )
        self._read_timeout_s = settings.redis_timeout_ms / 1000
        self._write_timeout_s = settings.redis_write_timeout_ms / 1000

    async def read(self, layout: EntryLayout, user_id: str) -> UserState:
        """Read one user's state.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        return (await self.read_many(layout, (user_id,)))[0]

    async def read_many(self, layout: EntryLayout, user_ids: Sequence[str]) -> list[UserState]:
        """Read several users' states in one round trip, in the order asked for.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """

        def commands(pipeline: Pipeline) -> None:
            pipeline.get(self._keys.active)
            pipeline.xrange(self._keys.items_log, min=self.next_item_change(), count=ITEM_CHANGES_READ)
            for user_id in user_ids:
                pipeline.hget(self._keys.bucket_of(layout, user_id), user_id)
                pipeline.lrange(self._keys.history(user_id), 0, -1)

        # A batch is many histories to receive; it gets the time of a write.
        timeout_s = self._read_timeout_s if len(user_ids) == 1 else self._write_timeout_s
        active, item_changes, *values = await self._execute("read", commands, timeout_s)
        self.on_active(_text(active))
        self.on_item_changes(item_changes)
        return [self._state(packed, history) for packed, history in zip(*[iter(values)] * _READS_PER_USER, strict=True)]

    async def active_version(self) -> str | None:
        """The version in `{ns}:active`, None when nothing was activated through Redis.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        (active,) = await self._execute("active", lambda p: p.get(self._keys.active), self._read_timeout_s)
        return _text(active)

    async def activate(self, version: str) -> None:
        """Have a version served.

        Raises:
            CacheUnavailable: perhaps it is.
        """
        await self._execute("active", lambda p: p.set(self._keys.active, version), self._write_timeout_s)

    async def store(self, layout: EntryLayout, user_id: str, entry: CacheEntry, history: tuple[str, ...]) -> None:
        """Write back a decoded entry.

        Args:
            layout: that of the model version that decoded it.
            user_id: whose it is.
            entry: `decoded_at` is when the decode started.
            history: the whole history it was decoded from. Where an event came meanwhile, the user's mark stays; a user
                who was forgotten meanwhile stays forgotten.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """

        bucket = self._keys.bucket_of(layout, user_id)

        def write(pipeline: Pipeline) -> None:
            pipeline.hset(bucket, user_id, entry.pack())
            pipeline.expire(bucket, self._settings.entry_ttl_s)
            pipeline.hset(self._keys.caches, layout.cache_version, str(layout.buckets))
            pipeline.lrange(self._keys.history(user_id), 0, -1)

        *_, stored = await self._execute("store", write, self._write_timeout_s)
        now = tuple(item.decode(errors="replace") for item in stored)

        if now and now != history:
            return

        def settle(pipeline: Pipeline) -> None:
            pipeline.zrem(self._keys.dirty, user_id)
            pipeline.zrem(self._keys.demand, user_id)
            if not now:
                pipeline.hdel(bucket, user_id)

        await self._execute("store", settle, self._write_timeout_s)

    async def append_events(self, events: Iterable[tuple[str, str]]) -> None:
        """Add (user id, item id) events, oldest first, and mark the users dirty.

        Raises:
            CacheUnavailable: perhaps none, perhaps a part was recorded; sending all again repeats items at worst.
        """
        items_of: dict[str, list[str]] = {}
        for user_id, item_id in events:
            items_of.setdefault(user_id, []).append(item_id)
        if not items_of:
            return
        now = time.time()

        def commands(pipeline: Pipeline) -> None:
            for user_id, items in items_of.items():
                key = self._keys.history(user_id)
                pipeline.rpush(key, *items)
                pipeline.ltrim(key, -self._settings.history_length, -1)
                pipeline.expire(key, self._settings.history_ttl_s)
            pipeline.zadd(self._keys.dirty, dict.fromkeys(items_of, now), nx=True)
            # Whoever has been dirty for so long has no history any more; this bounds the set.
            pipeline.zremrangebyscore(self._keys.dirty, "-inf", now - self._settings.history_ttl_s)

        await self._execute("events", commands, self._write_timeout_s)

    async def add_answers(self, served: Mapping[int, AnswerCounts], demand: Mapping[str, int]) -> None:
        """Add to the counts that a refresh goes by.

        Args:
            served: by minute, Unix time / 60.
            demand: for each user who was left wanting, how often.

        Raises:
            CacheUnavailable: perhaps none, perhaps a part was added.
        """

        def commands(pipeline: Pipeline) -> None:
            for minute, counts in served.items():
                key = self._keys.served(minute)
                pipeline.hincrby(key, "all", counts.all)
                pipeline.hincrby(key, "fresh", counts.fresh)
                pipeline.expire(key, _SERVED_KEPT_S)
            if not demand:
                return
            for user_id, times in demand.items():
                pipeline.zincrby(self._keys.demand, times, user_id)
            pipeline.zremrangebyrank(self._keys.demand, 0, -_DEMAND_USERS - 1)
            pipeline.expire(self._keys.demand, _DEMAND_KEPT_S)

        await self._execute("freshness", commands, self._write_timeout_s)

    async def history(self, user_id: str) -> tuple[str, ...]:
        """A user's item ids, oldest first.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        (items,) = await self._execute(
            "history", lambda p: p.lrange(self._keys.history(user_id), 0, -1), self._read_timeout_s
        )
        return tuple(item.decode(errors="replace") for item in items)

    async def forget(self, user_id: str) -> bool:
        """Delete all that is stored of a user, under whatever version. Returns whether anything was.

        Raises:
            CacheUnavailable: perhaps not all is deleted; do it again.
        """
        (caches,) = await self._execute("forget", lambda p: p.hgetall(self._keys.caches), self._write_timeout_s)
        layouts = [EntryLayout(version.decode(), int(buckets)) for version, buckets in caches.items()]

        def commands(pipeline: Pipeline) -> None:
            # One key a command: in a cluster they live on different nodes.
            pipeline.delete(self._keys.history(user_id))
            pipeline.zrem(self._keys.dirty, user_id)
            pipeline.zrem(self._keys.demand, user_id)
            for layout in layouts:
                pipeline.hdel(self._keys.bucket_of(layout, user_id), user_id)

        return any(await self._execute("forget", commands, self._write_timeout_s))

    async def put_off_expiry(self, layout: EntryLayout) -> None:
        """Give the buckets of a served version their whole lifetime again; at most one process does, and rarely.

        Raises:
            CacheUnavailable: some may still expire at their old time; the next call to come starts over.
        """
        lifetime_s = self._settings.entry_ttl_s
        kept = self._keys.kept(layout.cache_version)
        pause_s = max(lifetime_s // _EXPIRY_PUT_OFF_PER_LIFETIME, 1)
        (won,) = await self._execute("expiry", lambda p: p.set(kept, "", nx=True, ex=pause_s), self._write_timeout_s)
        if not won:
            return
        try:
            for start in range(0, layout.buckets, _EXPIRIES_PER_CALL):
                numbers = range(start, min(start + _EXPIRIES_PER_CALL, layout.buckets))

                def commands(pipeline: Pipeline, numbers: range = numbers) -> None:
                    for number in numbers:
                        pipeline.expire(self._keys.bucket(layout, number), lifetime_s)

                await self._execute("expiry", commands, self._write_timeout_s)
        except CacheUnavailable:
            with suppress(CacheUnavailable):
                await self._execute("expiry", lambda p: p.delete(kept), self._write_timeout_s)
            raise

    async def execute(
        self, operation: str, commands: Callable[[Pipeline], object], *, patient: bool = False
    ) -> list[Any]:
        """Send the commands of another part in one round trip; their results, in order.

        Args:
            operation: its name in the metrics.
            commands: adds them to a pipeline.
            patient: whether it may take the time of a write rather than that of a read.

        Raises:
            CacheUnavailable: Redis did not answer in time, or refused one of them.
        """
        return await self._execute(operation, commands, self._write_timeout_s if patient else self._read_timeout_s)

    async def ping(self) -> None:
        """Check that Redis answers, whatever recent requests met.

        Raises:
            CacheUnavailable: it does not.
        """
        await self.active_version()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _state(self, packed: bytes | None, history: Sequence[bytes]) -> UserState:
        entry = self._entry(packed)
        # Without a history, because it has expired, there is nothing to decode anew from.
        dirty = entry is not None and bool(history) and entry.history_digest != history_digest(history)
        return UserState(entry, tuple(item.decode(errors="replace") for item in history), dirty)

    def _entry(self, packed: bytes | None) -> CacheEntry | None:
        if packed is None:
            return None
        try:
            return CacheEntry.unpack(packed)
        except CacheEntryUnreadable:
            self._telemetry.cache_unreadable.inc()
            return None

    async def _execute(self, operation: str, commands: Callable[[Pipeline], object], timeout_s: float) -> list[Any]:
        if not self._breaker.allows():
            self._telemetry.cache_unavailable.labels(operation, "cooldown").inc()
            raise CacheUnavailable("cooling down after a failure")
        try:
            async with asyncio.timeout(timeout_s):
                # A cluster's pipeline has the same commands, and no common base class.
                pipeline = cast(Pipeline, self._client.pipeline(transaction=False))
                commands(pipeline)
                results: list[Any] = await pipeline.execute(raise_on_error=False)
        # The last: no node of a cluster answers, or none has the slot.
        except (RedisError, OSError, TimeoutError, RedisClusterException) as error:
            self._breaker.failed()
            raise self._unavailable(operation, error) from error
        self._breaker.succeeded()
        for result in results:
            # Such as OOM or a key of another type: Redis is well, this request is not.
            if isinstance(result, Exception):
                raise self._unavailable(operation, result) from result
        return results

    def _unavailable(self, operation: str, error: Exception) -> CacheUnavailable:
        # A certificate that is not trusted looks like any other lost connection from outside.
        kind = next((type(cause).__name__ for cause in causes_of(error) if isinstance(cause, SSLError)), None)
        kind = kind or type(error).__name__
        self._telemetry.cache_unavailable.labels(operation, kind).inc()
        return CacheUnavailable(f"{operation}: {kind}")


def _text(value: bytes | None) -> str | None:
    return value.decode(errors="replace") if value else None
