"""Recording events: into histories, or as reads into what is withheld; each id once, and a bounded number at a time.

An event with an id is written in one transaction with its id (WATCH, MULTI, EXEC in the slot of the history): neither
is there without the other, whoever dies when (docs/decisions/0023-event-ids-in-a-transaction.md).
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.client import Pipeline
from redis.exceptions import MovedError, WatchError

from app.history_commands import add_events, add_to_history, mark_dirty
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.redis_connection import RedisClient
from app.settings import Settings
from app.withheld_items import WithheldItems

MAX_IDS = 10_000
"""Ids known of one user; older ones go first."""
_ROWS_AT_ONCE = 500
"""More of them in one piece would hold up the event loop."""
_TRANSACTIONS = 4
_NODE_CONNECTIONS = 2 * _TRANSACTIONS * _TRANSACTIONS
_CONFLICT_PAUSE_S = 0.005


class EventsRefused(Exception):
    """As many events are being written as may be; none of these was."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to record.

    Attributes:
        seconds: when it happened, Unix time.
        is_read: whether it says that the item was read, and so belongs to what is withheld, not to the history.
        event_id: what tells it from the user's other events, None where it has no name.
    """

    user_id: str
    item_id: str
    seconds: float
    is_read: bool
    event_id: str | None


class RecordedEvents:
    """Writes events of one worker."""

    def __init__(self, cache: RecommendationCache, withheld: WithheldItems, settings: Settings) -> None:
        self._cache = cache
        self._withheld = withheld
        self._keys = cache.keys
        self._settings = settings
        self._timeout_s = settings.redis_write_timeout_ms / 1000
        self._writing = 0
        self._turns = asyncio.Semaphore(_TRANSACTIONS)
        self._nodes: dict[str, Redis] = {}

    async def record(self, events: Sequence[NewEvent]) -> list[bool]:
        """Write events, which are oldest first.

        Returns:
            Of each, whether it is new; False: its id was known, and it was left alone.

        Raises:
            EventsRefused: too many are being written; nothing was done.
            CacheUnavailable: perhaps a part was recorded. Sending all again records the rest, and of the part only
                what has no id.
        """
        # Alone, a request may be larger than the bound, or it could never be accepted.
        if self._writing and self._writing + len(events) > self._settings.event_queue:
            raise EventsRefused
        self._writing += len(events)
        try:
            new: list[bool] = []
            for start in range(0, len(events), _ROWS_AT_ONCE):
                new += await self._record(events[start : start + _ROWS_AT_ONCE])
            return new
        finally:
            self._writing -= len(events)

    async def aclose(self) -> None:
        """Close connections of its own."""
        for client in self._nodes.values():
            await client.aclose()

    async def _record(self, events: Sequence[NewEvent]) -> list[bool]:
        # First, and harmless to repeat: an id that is known must mean that all was done.
        await self._withheld.withhold(
            (event.user_id, event.item_id, event.seconds) for event in events if event.is_read
        )
        if not any(event.event_id is not None for event in events):
            into_history = [(event.user_id, event.item_id) for event in events if not event.is_read]
            await self._cache.execute("events", lambda p: add_events(p, self._keys, self._settings, into_history))
            return [True] * len(events)
        seen = await self._record_named(events)
        news = dict.fromkeys(e.user_id for row, e in enumerate(events) if row not in seen and not e.is_read)
        if news:
            # Of no matter if Redis does not take it: a mark is a hint, and their entries count as stale anyway.
            with suppress(CacheUnavailable):
                await self._cache.execute("events", lambda p: mark_dirty(p, self._keys, self._settings, news))
        return [row not in seen for row in range(len(events))]

    async def _record_named(self, events: Sequence[NewEvent]) -> set[int]:
        """Write events with their ids; gives the rows whose ids were known."""
        of_user: dict[str, list[int]] = {}
        for row, event in enumerate(events):
            of_user.setdefault(event.user_id, []).append(row)
        try:
            # Not within the attempt: waiting for others here is no fault of Redis.
            async with asyncio.timeout(self._timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            raise CacheUnavailable("event_ids: too many transactions") from None
        try:
            async with self._cache.attempt("event_ids") as client:
                if not isinstance(client, RedisCluster):
                    return await self._record_once(client, of_user, events)
                # A transaction is within one slot, and so of one user.
                some = asyncio.Semaphore(_TRANSACTIONS)

                async def of_one(user_id: str) -> set[int]:
                    async with some:
                        return await self._record_once(client, {user_id: of_user[user_id]}, events)

                try:
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(of_one(user_id)) for user_id in of_user]
                except ExceptionGroup as failures:
                    raise failures.exceptions[0] from None
                return set().union(*(task.result() for task in tasks))
        finally:
            self._turns.release()

    async def _record_once(
        self, client: RedisClient, of_user: dict[str, list[int]], events: Sequence[NewEvent]
    ) -> set[int]:
        """Write the rows of these users, all or none; gives those whose ids were known."""
        keys = [self._keys.event_ids(user_id) for user_id in of_user]
        # Ended by the attempt's time: whenever one loses a conflict, another has won it.
        while True:
            node = await self._node_of(client, keys[0])
            async with node.pipeline(transaction=True) as transaction:
                try:
                    await transaction.watch(*keys)
                    seen = await self._known_rows(node, of_user, events)
                    transaction.multi()  # type: ignore[no-untyped-call]
                    self._add_commands(transaction, of_user, events, seen)
                    if not len(transaction):
                        return seen
                    # EXEC ends the watch. If it is cancelled, the connection is closed; the pipeline would wait for an
                    # UNWATCH instead.
                    transaction.watching = False
                    results = await transaction.execute(raise_on_error=False)
                except MovedError:
                    # An ordinary command has the client learn where the slot is now.
                    await client.exists(keys[0])
                    continue
                except WatchError:
                    await asyncio.sleep(random.uniform(0, _CONFLICT_PAUSE_S))
                    continue
            failed = next((one for one in results if isinstance(one, Exception)), None)
            if failed is not None:
                await self._take_back_ids(node, of_user, events, seen)
                raise failed
            return seen

    async def _known_rows(self, node: Redis, of_user: dict[str, list[int]], events: Sequence[NewEvent]) -> set[int]:
        """Rows whose id is recorded, and still within its time, or is that of an earlier row."""
        oldest_s = time.time() - self._settings.event_id_ttl_s
        rows_of = {user: [row for row in rows if events[row].event_id is not None] for user, rows in of_user.items()}
        rows_of = {user: rows for user, rows in rows_of.items() if rows}
        async with node.pipeline(transaction=False) as reading:
            for user_id, rows in rows_of.items():
                reading.zmscore(self._keys.event_ids(user_id), [str(events[row].event_id) for row in rows])
            found = await reading.execute()
        seen: set[int] = set()
        for rows, scores in zip(rows_of.values(), found, strict=True):
            before: set[str | None] = set()
            for row, recorded_s in zip(rows, scores, strict=True):
                event_id = events[row].event_id
                if event_id in before or (recorded_s is not None and recorded_s >= oldest_s):
                    seen.add(row)
                before.add(event_id)
        return seen

    def _add_commands(
        self, transaction: Pipeline, of_user: dict[str, list[int]], events: Sequence[NewEvent], seen: set[int]
    ) -> None:
        now, lifetime_s = time.time(), self._settings.event_id_ttl_s
        for user_id, rows in of_user.items():
            key, fresh = self._keys.event_ids(user_id), [events[row] for row in rows if row not in seen]
            named: dict[Any, Any] = {event.event_id: now for event in fresh if event.event_id is not None}
            if named:
                transaction.zadd(key, named)
                transaction.zremrangebyscore(key, "-inf", now - lifetime_s)
                transaction.zremrangebyrank(key, 0, -MAX_IDS - 1)
                transaction.expire(key, lifetime_s)
            items = [event.item_id for event in fresh if not event.is_read]
            add_to_history(transaction, self._keys, self._settings, user_id, items)

    async def _take_back_ids(
        self, node: Redis, of_user: dict[str, list[int]], events: Sequence[NewEvent], seen: set[int]
    ) -> None:
        """Where Redis did a part of a transaction, as with a key of another type, an id must not stand for an event."""
        async with node.pipeline(transaction=False) as removing:
            for user_id, rows in of_user.items():
                named = [events[row].event_id for row in rows if row not in seen and events[row].event_id is not None]
                if named:
                    removing.zrem(self._keys.event_ids(user_id), *named)  # type: ignore[arg-type]
            await removing.execute(raise_on_error=False)

    async def _node_of(self, client: RedisClient, key: str) -> Redis:
        """The server that has a key: what redis-py calls a transaction on a cluster does not watch."""
        if not isinstance(client, RedisCluster):
            return client
        await client.initialize()
        node = client.get_node_from_key(key)
        if node is None:
            raise CacheUnavailable("event_ids: no node has the slot")
        if node.name not in self._nodes:
            pool = BlockingConnectionPool(
                connection_class=node.connection_class,
                max_connections=_NODE_CONNECTIONS,
                timeout=self._timeout_s,
                **node.connection_kwargs,
            )
            self._nodes[node.name] = Redis.from_pool(pool)
        return self._nodes[node.name]
