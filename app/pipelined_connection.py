"""A Redis connection on which commands are sent while earlier ones still wait for their replies.

redis-py opens it: address, TLS, password, database and sentinels are its business. From then on replies are read here,
because its pipeline costs more than a cached answer has (docs/decisions/0020-shared-reads.md).
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

Command: TypeAlias = tuple[str | bytes, ...]

_INCOMPLETE = object()


class PipelinedConnection(asyncio.Protocol):
    """Sends at once and resolves futures as replies come, in the order of the commands.

    It keeps no time: whoever waits too long calls `abort`, for what is late holds up all that follows.

    Args:
        connection: connected, and nobody else's until `aclose`.
        pool: where it came from.
    """

    def __init__(self, connection: AbstractConnection, pool: ConnectionPool) -> None:
        self._connection = connection
        self._pool = pool
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._replies: list[Any] = []
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_INCOMPLETE
        )
        # The one private name of redis-py that is used: it has no other way to a connection's transport.
        self._transport = cast(asyncio.Transport, connection._writer.transport)  # type: ignore[union-attr]
        self._opener = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @classmethod
    async def open(cls, pool: ConnectionPool) -> "PipelinedConnection":
        """Take a connection of a pool.

        Raises:
            RedisError, OSError: there is none to be had.
        """
        return cls(await pool.get_connection(), pool)  # type: ignore[no-untyped-call]

    @property
    def usable(self) -> bool:
        """Whether commands can be sent."""
        return not self._transport.is_closing()

    def send(self, commands: Iterable[Command]) -> asyncio.Future[list[Any]]:
        """Send commands now.

        Returns:
            their replies, of which some may be a ResponseError. It fails with a RedisError when the connection is lost.
        """
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, len(packed)))
        self._transport.write(b"".join(packed))
        return future

    def abort(self) -> None:
        """Drop the connection and whoever waits for a reply on it."""
        self._transport.abort()
        self._fail(RedisConnectionError("the connection was given up"))

    async def aclose(self) -> None:
        """Close the connection and give its place back to the pool."""
        self.abort()
        await self._connection.disconnect(nowait=True)
        await self._pool.release(self._connection)

    def data_received(self, data: bytes) -> None:
        """Resolve what is complete."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                # Nobody asked for it: news of the server's own.
                if isinstance(reply, hiredis.PushNotification):
                    continue
                self._take(reply)
        except (InvalidResponse, IndexError) as error:
            self._transport.abort()
            self._fail(error if isinstance(error, InvalidResponse) else InvalidResponse("a reply to no command"))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everybody."""
        # redis-py waits for it when it disconnects.
        self._opener.connection_lost(error)
        self._fail(RedisConnectionError("the connection was lost"))

    def _take(self, reply: Any) -> None:
        future, expected = self._waiting[0]
        self._replies.append(reply)
        if len(self._replies) == expected:
            self._waiting.popleft()
            replies, self._replies = self._replies, []
            if not future.done():
                future.set_result(replies)

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting, self._replies = self._waiting, deque(), []
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)
