"""A socket in front of the real Redis that can be shut, or lose the connection around a command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

_CHUNK = 1 << 16


class RedisGate:
    """What happens to what passes.

    Attributes:
        open: while it is not set, nothing reaches Redis.
        lose: drop the connection of whoever sends EXEC, once: `before` Redis has it, or `after`, so that its answer
            never comes.
        lost: whether that has happened.
        wait_s: how long everything waits on its way to Redis.
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.lose: Literal["before", "after"] | None = None
        self.lost = False
        self.wait_s = 0.0


@asynccontextmanager
async def redis_gate(server: Path, listen: Path) -> AsyncIterator[RedisGate]:
    """Listen on a Unix socket for as long as the block lasts."""
    gate = RedisGate()
    passing: set[asyncio.Task[None]] = set()

    async def connected(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(server)

        async def forth() -> None:
            while sent := await from_client.read(_CHUNK):
                await gate.open.wait()
                await asyncio.sleep(gate.wait_s)
                losing = gate.lose if b"$4\r\nEXEC\r\n" in sent else None
                if losing is not None:
                    gate.lose, gate.lost = None, True
                    to_client.close()
                if losing != "before":
                    to_server.write(sent)
            to_server.close()

        async def back() -> None:
            while answer := await from_server.read(_CHUNK):
                with suppress(ConnectionError):
                    to_client.write(answer)
            to_client.close()

        for way in (forth(), back()):
            task = asyncio.create_task(way)
            passing.add(task)
            task.add_done_callback(passing.discard)

    listening = await asyncio.start_unix_server(connected, listen)
    try:
        yield gate
    finally:
        listening.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
