"""The Redis servers of this machine: the embedded one, and another build where the PATH has one."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from app import embedded_redis
from model_store.cache_keys import COMPACT_ENTRY_BYTES, COMPACT_USERS

_START_S = 30.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        name: version and allocator.
        socket: where it listens.
        client: connected to it.
    """

    name: str
    socket: Path
    client: redis.Redis

    @classmethod
    def at(cls, path: Path) -> "Server":
        """Connect to the server that listens there."""
        client = redis.Redis(unix_socket_path=str(path))
        info = client.info()
        return cls(f"Redis {info['redis_version']}, {info['mem_allocator']}", path, client)

    def used_memory(self) -> int:
        """Bytes, once tables have been resized and the append-only file has been rewritten."""
        before = 0
        while True:
            info = self.client.info()
            now = int(info["used_memory"])
            if abs(now - before) < 4096 and not info["aof_rewrite_in_progress"]:
                return now
            before = now
            time.sleep(0.1)


@contextmanager
def servers(folder: Path) -> Iterator[list[Server]]:
    """The embedded server first, then one from the PATH if it is of another build, with the same settings of memory."""
    with ExitStack() as running:
        url = embedded_redis.ensure_running(folder / "home")
        running.callback(embedded_redis.stop, folder / "home")
        found = [Server.at(Path(url.removeprefix("unix://")))]
        if (other := _other_binary()) is not None:
            found.append(running.enter_context(_started(other, folder / "other")))
        yield found


def _other_binary() -> Path | None:
    embedded = _version(embedded_redis.server_binary())
    for place in os.get_exec_path():
        binary = Path(place) / "redis-server"
        if os.access(binary, os.X_OK) and _version(binary) != embedded:
            return binary
    return None


def _version(binary: Path) -> str:
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout


@contextmanager
def _started(binary: Path, folder: Path) -> Iterator[Server]:
    folder.mkdir()
    path = folder / "redis.sock"
    options = {
        "port": "0",
        "unixsocket": str(path),
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "hash-max-ziplist-entries": str(COMPACT_USERS),
        "hash-max-ziplist-value": str(COMPACT_ENTRY_BYTES),
    }
    command = [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{binary} did not start")
            time.sleep(0.05)
        yield Server.at(path)
    finally:
        process.terminate()
        process.wait()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return path.exists() and probe.connect_ex(str(path)) == 0
