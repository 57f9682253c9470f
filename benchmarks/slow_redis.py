"""A process between the service and its Redis that passes everything on and can hold every answer back.

    python -m benchmarks.slow_redis SERVER_SOCKET LISTEN_SOCKET

Each line on standard input is a number of milliseconds: from then on answers come so much later. It ends with its
input.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.server_process import ROOT

_CHUNK = 1 << 16
_START_S = 10.0


class SlowRedis:
    """A running one.

    Attributes:
        socket: where the service finds it.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", socket: Path) -> None:
        self._process = process
        self.socket = socket

    def delay(self, milliseconds: float) -> None:
        """Hold answers back so long from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%g\n" % milliseconds)
        self._process.stdin.flush()


@contextlib.contextmanager
def slow_redis(server: Path, listen: Path) -> Iterator[SlowRedis]:
    """Stand between for as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.slow_redis", str(server), str(listen)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"listens\n":
            raise RuntimeError("the proxy before Redis did not start")
        yield SlowRedis(process, listen)
    finally:
        process.stdin.close()
        process.wait(_START_S)
        process.stdout.close()


class _Proxy:
    def __init__(self, server: Path) -> None:
        self._server = server
        self.delay_s = 0.0

    async def connected(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._server)
        except OSError:
            to_client.close()
            return
        answers: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        ways = [
            asyncio.create_task(way)
            for way in (
                _pass_on(from_client, to_server),
                self._note(from_server, answers),
                _hand_over(answers, to_client),
            )
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for task in ways:
            task.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        to_server.close()
        to_client.close()

    async def _note(self, from_server: asyncio.StreamReader, answers: "asyncio.Queue[tuple[float, bytes]]") -> None:
        while answer := await from_server.read(_CHUNK):
            answers.put_nowait((asyncio.get_running_loop().time() + self.delay_s, answer))


async def _pass_on(from_client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
    while sent := await from_client.read(_CHUNK):
        to_server.write(sent)


async def _hand_over(answers: "asyncio.Queue[tuple[float, bytes]]", to_client: asyncio.StreamWriter) -> None:
    while True:
        due, answer = await answers.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        to_client.write(answer)


async def _main(server: Path, listen: Path) -> None:
    proxy = _Proxy(server)
    async with await asyncio.start_unix_server(proxy.connected, listen):
        print("listens", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            proxy.delay_s = float(line) / 1000


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2])))
