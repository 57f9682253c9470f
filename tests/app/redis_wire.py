"""A socket in front of the real Redis that passes everything on and notes the turns of each connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_CHUNK = 1 << 16


class Turn:
    """What a client sent before it heard anything back: one round trip."""

    def __init__(self) -> None:
        self._sent = bytearray()
        self.answered = False

    def add(self, sent: bytes) -> None:
        self._sent += sent

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, as the protocol frames them: *WORDS, then $LENGTH and the bytes of each."""
        commands, rest = [], bytes(self._sent)
        while rest:
            count, _, rest = rest.partition(b"\r\n")
            words = []
            for _ in range(int(count.removeprefix(b"*"))):
                length, _, rest = rest.partition(b"\r\n")
                end = int(length.removeprefix(b"$"))
                words.append(rest[:end].decode())
                rest = rest[end + 2 :]
            commands.append(words)
        return commands


@asynccontextmanager
async def redis_wire(server: Path, listen: Path) -> AsyncIterator[list[Turn]]:
    """Listen on a Unix socket, for as long as the block lasts; gives the turns of all connections as they begin."""
    turns: list[Turn] = []
    passing: set[asyncio.Task[None]] = set()

    async def connected(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(server)
        turn = Turn()
        turn.answered = True

        async def forth() -> None:
            nonlocal turn
            while sent := await from_client.read(_CHUNK):
                if turn.answered:
                    turn = Turn()
                    turns.append(turn)
                turn.add(sent)
                to_server.write(sent)
            to_server.close()

        async def back() -> None:
            while answer := await from_server.read(_CHUNK):
                turn.answered = True
                to_client.write(answer)
            to_client.close()

        for way in (forth(), back()):
            task = asyncio.create_task(way)
            passing.add(task)
            task.add_done_callback(passing.discard)

    listening = await asyncio.start_unix_server(connected, listen)
    try:
        yield turns
    finally:
        listening.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
