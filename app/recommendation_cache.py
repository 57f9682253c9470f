"""What Redis holds for the API: decoded entries, histories, who has news, and which version is served.

Any key may be missing at any time. Redis itself may be missing too: every method then raises CacheUnavailable, within
its timeout, and for a while at once, so that an outage does not cost every request its timeout.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain, islice
from ssl import SSLError
from typing import Any, NamedTuple, cast

from redis.asyncio.client import Pipeline
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from app.circuit_breaker import CircuitBreaker
from app.pipelined_connection import Command
from app.redis_connection import RedisClient, connections_of
from app.redis_replies import error_code, log_entry, text, texts
from app.settings import Settings
from app.shared_reads import ReadRefused, SharedReads
from app.telemetry import Telemetry
from app.user_state import StoredUser, UserState
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import EntryLayout, Keys
from model_store.errors import CacheEntryUnreadable, causes_of
from model_store.item_log import LogEntry

# One slow answer is no outage; three in a row without a good one between them are.
_FAILURES_TO_OPEN = 3
# The last: no node of a cluster answers, or none has the slot.
_EXPECTED = (RedisError, OSError, TimeoutError, RedisClusterException)
ITEM_CHANGES_READ = 64
"""Entries of the log of item changes that a read takes along at most."""
_EXPIRY_PUT_OFF_PER_LIFETIME = 8
_EXPIRIES_PER_CALL = 500


class _Patience(NamedTuple):
    """How long a kind of call may take, and what tells when to make none."""

    breaker: CircuitBreaker
    timeout_s: float


class CacheUnavailable(Exception):
    """Redis did not do what was asked, in time or at all. Says no more than the kind of failure."""


class RecommendationCache:
    """Reads and writes Redis. What answers a request is one round trip, or a share of one.

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

        def patience(name: str, timeout_ms: int) -> _Patience:
            breaker = CircuitBreaker(
                name, failures_to_open=_FAILURES_TO_OPEN, first_pause_s=cooldown_s, longest_pause_s=cooldown_s
            )
            return _Patience(breaker, timeout_ms / 1000)

        # Each with a breaker of its own: a Redis that is late for reads can be in time for writes.
        self._reading = patience("redis", settings.redis_timeout_ms)
        self._writing = patience("redis writes", settings.redis_write_timeout_ms)
        self._shared = SharedReads(
            client,
            self._reading.breaker,
            common=self._common_commands,
            on_common=self._take_common,
            timeout_s=self._reading.timeout_s,
        )

    async def read(self, layout: EntryLayout, user_id: str) -> UserState:
        """Read one user's state.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        return self.state_of(await self.stored(layout, user_id))

    async def stored(self, layout: EntryLayout, user_id: str) -> StoredUser:
        """What is stored of one user, as it is there. Whoever asks in the same tick shares the round trip.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        try:
            return StoredUser._make(await self._shared.read(self._user_commands(layout, user_id)))
        except ReadRefused as error:
            self._telemetry.cache_unavailable.labels("read", str(error)).inc()
            raise CacheUnavailable(f"read: {error}") from error
        except _EXPECTED as error:
            raise self._unavailable("read", error) from error

    async def read_many(self, layout: EntryLayout, user_ids: Sequence[str]) -> list[UserState]:
        """Read several users' states in one round trip, in the order asked for.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        if len(user_ids) == 1:
            return [await self.read(layout, user_ids[0])]
        common = self._common_commands()
        of_users = [self._user_commands(layout, user_id) for user_id in user_ids]

        def commands(pipeline: Pipeline) -> None:
            for command in (*common, *chain.from_iterable(of_users)):
                pipeline.execute_command(*command)

        # A batch is many histories to receive: a connection of its own, and the time of a write.
        replies = await self._execute("read", commands, self._writing)
        self._take_common(replies[: len(common)])
        values = iter(replies[len(common) :])
        return [self.state_of(StoredUser._make(islice(values, len(own)))) for own in of_users]

    def _common_commands(self) -> tuple[Command, ...]:
        """What every read asks for, whoever it is about: once a round trip."""
        return (
            ("GET", self._keys.active),
            ("XRANGE", self._keys.items_log, self.next_item_change(), "+", "COUNT", str(ITEM_CHANGES_READ)),
        )

    def _take_common(self, replies: Sequence[Any]) -> None:
        active, item_changes = replies
        self.on_active(text(active))
        self.on_item_changes([log_entry(*entry) for entry in item_changes])

    def _user_commands(self, layout: EntryLayout, user_id: str) -> tuple[Command, ...]:
        """What a read asks for of each user: the fields of a StoredUser, in their order."""
        return (
            ("HGET", self._keys.bucket_of(layout, user_id), user_id),
            ("LRANGE", self._keys.history(user_id), "0", "-1"),
            ("ZRANGEBYSCORE", self._keys.withheld(user_id), "-inf", f"{time.time():.3f}"),
        )

    async def active_version(self) -> str | None:
        """The version in `{ns}:active`, None when nothing was activated through Redis.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        (active,) = await self._execute("active", lambda p: p.get(self._keys.active), self._reading)
        return text(active)

    async def activate(self, version: str) -> None:
        """Have a version served.

        Raises:
            CacheUnavailable: perhaps it is.
        """
        await self._execute("active", lambda p: p.set(self._keys.active, version), self._writing)

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

        *_, stored = await self._execute("store", write, self._writing)
        now = texts(stored)

        if now and now != history:
            return

        def settle(pipeline: Pipeline) -> None:
            pipeline.zrem(self._keys.dirty, user_id)
            pipeline.zrem(self._keys.demand, user_id)
            if not now:
                pipeline.hdel(bucket, user_id)

        await self._execute("store", settle, self._writing)

    async def history(self, user_id: str) -> tuple[str, ...]:
        """A user's item ids, oldest first.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        (items,) = await self._execute("history", lambda p: p.lrange(self._keys.history(user_id), 0, -1), self._reading)
        return texts(items)

    async def forget(self, user_id: str, served: EntryLayout) -> bool:
        """Delete all that is stored of a user, under whatever version. Returns whether anything was.

        Args:
            user_id: who.
            served: the layout of the served version, which may have no entries yet.

        Raises:
            CacheUnavailable: perhaps not all is deleted; do it again.
        """
        (caches,) = await self._execute("forget", lambda p: p.hgetall(self._keys.caches), self._writing)
        layouts = {EntryLayout(version.decode(), int(buckets)) for version, buckets in caches.items()} | {served}

        def commands(pipeline: Pipeline) -> None:
            # One key a command: in a cluster they live on different nodes.
            pipeline.delete(self._keys.history(user_id))
            pipeline.delete(self._keys.withheld(user_id))
            pipeline.delete(self._keys.event_ids(user_id))
            pipeline.zrem(self._keys.dirty, user_id)
            pipeline.zrem(self._keys.demand, user_id)
            for layout in layouts:
                pipeline.hdel(self._keys.bucket_of(layout, user_id), user_id)
            for layout in layouts:
                # It names some users as examples.
                pipeline.delete(self._keys.survey(layout.cache_version))

        return any((await self._execute("forget", commands, self._writing))[: -len(layouts)])

    async def execute(
        self, operation: str, commands: Callable[[Pipeline], object], *, patient: bool = True
    ) -> list[Any]:
        """Send the commands of a part that has keys of its own; one round trip.

        Args:
            operation: its name in the metrics.
            commands: adds them to a pipeline.
            patient: whether they get the time of a write rather than that of a read.

        Raises:
            CacheUnavailable: perhaps none, perhaps a part was done.
        """
        return await self._execute(operation, commands, self._writing if patient else self._reading)

    @asynccontextmanager
    async def attempt(self, operation: str) -> AsyncIterator[RedisClient]:
        """The client itself, for what is more than one round trip; the time of a write for all that is done with it.

        Raises:
            CacheUnavailable: perhaps none, perhaps a part was done.
        """
        breaker, timeout_s = self._asked(operation, self._writing)
        try:
            async with asyncio.timeout(timeout_s):
                yield self._client
        except ResponseError as error:
            breaker.succeeded()
            raise self._unavailable(operation, error) from error
        except _EXPECTED as error:
            breaker.failed()
            raise self._unavailable(operation, error) from error
        breaker.succeeded()

    async def put_off_expiry(self, layout: EntryLayout) -> None:
        """Give the buckets of a served version their whole lifetime again; at most one process does, and rarely.

        Raises:
            CacheUnavailable: some may still expire at their old time; the next call to come starts over.
        """
        lifetime_s = self._settings.entry_ttl_s
        kept = self._keys.kept(layout.cache_version)
        pause_s = max(lifetime_s // _EXPIRY_PUT_OFF_PER_LIFETIME, 1)
        (won,) = await self._execute("expiry", lambda p: p.set(kept, "", nx=True, ex=pause_s), self._writing)
        if not won:
            return
        try:
            for start in range(0, layout.buckets, _EXPIRIES_PER_CALL):
                numbers = range(start, min(start + _EXPIRIES_PER_CALL, layout.buckets))

                def commands(pipeline: Pipeline, numbers: range = numbers) -> None:
                    for number in numbers:
                        pipeline.expire(self._keys.bucket(layout, number), lifetime_s)

                await self._execute("expiry", commands, self._writing)
        except CacheUnavailable:
            with suppress(CacheUnavailable):
                await self._execute("expiry", lambda p: p.delete(kept), self._writing)
            raise

    def connections(self) -> tuple[int, int]:
        """Connections to Redis: used, idle."""
        return connections_of(self._client)

    @property
    def breaker_open(self) -> bool:
        """Whether Redis is being left alone after repeated failures."""
        return self._reading.breaker.is_open or self._writing.breaker.is_open

    async def ping(self) -> None:
        """Check that Redis answers, whatever recent requests met.

        Raises:
            CacheUnavailable: it does not.
        """
        await self.active_version()

    @property
    def keys(self) -> Keys:
        """Key names."""
        return self._keys

    async def aclose(self) -> None:
        """Close the connections."""
        await self._shared.aclose()
        await self._client.aclose()

    def state_of(self, stored: StoredUser) -> UserState:
        """What was read, unpacked. An entry that cannot be read is counted, and as good as none."""
        entry, history = self._entry(stored.packed), stored.history
        # Without a history, because it has expired, there is nothing to decode anew from.
        dirty = entry is not None and bool(history) and entry.history_digest != history_digest(history)
        return UserState(entry, texts(history), dirty, texts(stored.withheld))

    def _entry(self, packed: bytes | None) -> CacheEntry | None:
        if packed is None:
            return None
        try:
            return CacheEntry.unpack(packed)
        except CacheEntryUnreadable:
            self._telemetry.cache_unreadable.inc()
            return None

    async def _execute(self, operation: str, commands: Callable[[Pipeline], object], patience: _Patience) -> list[Any]:
        breaker, timeout_s = self._asked(operation, patience)
        try:
            async with asyncio.timeout(timeout_s):
                # A cluster's pipeline has the same commands, and no common base class.
                pipeline = cast(Pipeline, self._client.pipeline(transaction=False))
                commands(pipeline)
                results: list[Any] = await pipeline.execute(raise_on_error=False)
        except _EXPECTED as error:
            breaker.failed()
            raise self._unavailable(operation, error) from error
        breaker.succeeded()
        for result in results:
            # Such as OOM or a key of another type: Redis is well, this request is not.
            if isinstance(result, Exception):
                raise self._unavailable(operation, result) from result
        return results

    def _asked(self, operation: str, patience: _Patience) -> _Patience:
        """The same, where its breaker allows a call now."""
        if not patience.breaker.allows():
            self._telemetry.cache_unavailable.labels(operation, "cooldown").inc()
            raise CacheUnavailable("cooling down after a failure")
        return patience

    def _unavailable(self, operation: str, error: Exception) -> CacheUnavailable:
        # A certificate that is not trusted looks like any other lost connection from outside.
        kind = next((type(cause).__name__ for cause in causes_of(error) if isinstance(cause, SSLError)), None)
        kind = kind or error_code(error) or type(error).__name__
        self._telemetry.cache_unavailable.labels(operation, kind).inc()
        return CacheUnavailable(f"{operation}: {kind}")
