"""Reads that are asked for in one tick of the event loop share one round trip to Redis.

What a round trip costs besides its commands is then paid once for all of them. The busier the process, the more they
are; a lone read waits for nobody.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from app.circuit_breaker import CircuitBreaker
from app.pipelined_connection import Command, PipelinedConnection
from app.redis_connection import RedisClient

MAX_READS_OF_TRIP = 128
"""More are sent as several round trips: the first are answered while the rest is still on its way."""
MAX_WAITING = 10_000
_LAST_LOOK_S = 0.001


class ReadRefused(Exception):
    """The read was not tried: Redis is cooling down after failures, or too many others wait. Says which."""


class Link(Protocol):
    """A way to send commands in one round trip."""

    def send(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send them; the replies, a ResponseError where a command failed, or a failure of all."""
        ...

    def give_up(self) -> None:
        """Redis is late: what still waits will not be awaited."""
        ...

    async def aclose(self) -> None:
        """Give back what is held."""
        ...


class _ServerLink:
    """One server, whatever the form of its address: a connection that is kept, and opened anew when it is lost."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._connection: PipelinedConnection | None = None
        self._opening: asyncio.Task[PipelinedConnection] | None = None

    def send(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        if self._connection is not None and self._connection.usable:
            return self._connection.send(commands)
        return asyncio.ensure_future(self._open_and_send(commands))

    def give_up(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._connection is not None:
            await self._connection.aclose()

    async def _open_and_send(self, commands: Sequence[Command]) -> list[Any]:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="open-redis")
            self._opening.add_done_callback(self._opened)
        # Whoever gives up waiting does so alone: the connection is for all.
        return await (await asyncio.shield(self._opening)).send(commands)

    async def _open(self) -> PipelinedConnection:
        lost, self._connection = self._connection, None
        if lost is not None:
            await lost.aclose()
        self._connection = await PipelinedConnection.open(self._pool)
        return self._connection

    def _opened(self, opening: "asyncio.Future[PipelinedConnection]") -> None:
        self._opening = None
        _look_away(opening)


class _ClusterLink:
    """Several nodes: redis-py deals the commands out."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client

    def send(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        return asyncio.ensure_future(self._send(commands))

    def give_up(self) -> None:
        """Nothing: ending the task of a late round trip ends its connections."""

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        # A cluster's pipeline has the same commands, and no common base class.
        pipeline = cast(Pipeline, self._client.pipeline(transaction=False))
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)


class SharedReads:
    """Collects the reads of a tick, sends them together, and deals out the replies.

    Args:
        client: where to.
        breaker: asked before each round trip, and told how it went.
        common: the commands that do not depend on who is asked about: sent once a round trip, before the others.
        on_common: is given their replies before any read is answered.
        timeout_s: bound on a round trip.
    """

    def __init__(
        self,
        client: RedisClient,
        breaker: CircuitBreaker,
        *,
        common: Callable[[], Sequence[Command]],
        on_common: Callable[[Sequence[Any]], None],
        timeout_s: float,
    ) -> None:
        self._link: Link = _ClusterLink(client) if isinstance(client, RedisCluster) else _ServerLink(client)
        self._breaker = breaker
        self._common = common
        self._on_common = on_common
        self._timeout_s = timeout_s
        self._collected: list[_Read] = []
        self._waiting = 0

    def read(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands with those of everybody else who asks now.

        Returns:
            their replies. It fails with ReadRefused, with TimeoutError after the bound, with what the link met, or with
            the ResponseError of one of its own or the common commands.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        if self._waiting >= MAX_WAITING:
            future.set_exception(ReadRefused("full"))
            return future
        if not self._collected:
            loop.call_soon(self._flush)
        self._collected.append((future, commands))
        self._waiting += 1
        return future

    async def aclose(self) -> None:
        """Give the connection back."""
        await self._link.aclose()

    def _flush(self) -> None:
        reads, self._collected = self._collected, []
        for start in range(0, len(reads), MAX_READS_OF_TRIP):
            part = reads[start : start + MAX_READS_OF_TRIP]
            if self._breaker.allows():
                self._send(part)
            else:
                self._fail(part, ReadRefused("cooldown"))

    def _send(self, reads: "list[_Read]") -> None:
        common = self._common()
        commands = [*common]
        for _, own in reads:
            commands += own
        try:
            replies = self._link.send(commands)
        except RedisError as error:
            self._breaker.failed()
            self._fail(reads, error)
            return
        loop = asyncio.get_running_loop()

        late: asyncio.TimerHandle

        def answered(done: "asyncio.Future[list[Any]]") -> None:
            late.cancel()
            self._deal(done, len(common), reads)

        def expired() -> None:
            if replies.done():
                return
            replies.remove_done_callback(answered)
            # Before Python 3.12 redis-py can swallow a cancellation; nobody waits for it to take effect.
            replies.add_done_callback(_look_away)
            replies.cancel()
            self._link.give_up()
            self._breaker.failed()
            self._fail(reads, TimeoutError())

        def look_again() -> None:
            # Where this process was held up, the replies may be here and only not read yet.
            nonlocal late
            late = loop.call_later(_LAST_LOOK_S, expired)

        late = loop.call_later(self._timeout_s, look_again)
        replies.add_done_callback(answered)

    def _deal(self, done: "asyncio.Future[list[Any]]", common: int, reads: "list[_Read]") -> None:
        if done.cancelled():
            # The loop is closing.
            self._fail(reads, TimeoutError())
            return
        error = done.exception()
        if error is not None:
            self._breaker.failed()
            self._fail(reads, error)
            return
        self._breaker.succeeded()
        replies = done.result()
        # Such as a key of another type: Redis is well, what asked for it is not.
        errors = any(issubclass(kind, Exception) for kind in set(map(type, replies)))
        refused = _first_error(replies[:common]) if errors else None
        if refused is not None:
            self._fail(reads, refused)
            return
        self._on_common(replies[:common])
        self._waiting -= len(reads)
        at = common
        for future, commands in reads:
            own = replies[at : at + len(commands)]
            at += len(commands)
            if future.done():
                continue
            failed = _first_error(own) if errors else None
            if failed is None:
                future.set_result(own)
            else:
                future.set_exception(failed)

    def _fail(self, reads: "list[_Read]", error: BaseException) -> None:
        for future, _ in reads:
            if not future.done():
                future.set_exception(error)
        self._waiting -= len(reads)


def _first_error(replies: Sequence[Any]) -> Exception | None:
    return next((reply for reply in replies if isinstance(reply, Exception)), None)


def _look_away(done: "asyncio.Future[Any]") -> None:
    """Have asyncio not report a failure that nobody asks about any more."""
    if not done.cancelled():
        done.exception()


_Read = tuple[asyncio.Future[list[Any]], Sequence[Command]]
