"""What faults are made in: a Redis that can be killed, starved of disk or slowed, and a `tessera serve` in front."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis

from app.decoder.child import DecoderChild
from app.decoder.settings import DecoderSettings
from app.embedded_redis import server_binary
from benchmarks.fault_load import new_users
from benchmarks.server_process import ROOT, ServerProcess, started
from benchmarks.slow_redis import SlowRedis, slow_redis
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import Keys

_CACHED_USERS = 300
_ENTRY_ITEMS, _HISTORY_ITEMS = 20, 8
_TOP = 10
_WELL_S = 120.0
_POLL_S = 0.05


class OwnRedis:
    """A Redis process with the settings of the embedded one, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> redis.Redis:
        """A new client."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=10)

    def start(self) -> None:
        """Start it, with the append-only file that is there; returns when it answers."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "logfile": str(self._folder / "redis.log"),
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        # Python ignores the signal of a file too large, and hands that on: a write then fails as on a full disk.
        self._process = subprocess.Popen([str(server_binary()), *words], restore_signals=False)
        _wait_until(self._answers, "Redis")

    def kill(self) -> None:
        """As the kernel would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def empty(self) -> None:
        """Kill it and start it with nothing."""
        self.kill()
        for path in self._folder.rglob("*.aof"):
            path.unlink()
        self.start()

    def fill_disk(self) -> None:
        """No file of its may grow any more."""
        size = max(path.stat().st_size for path in self._folder.rglob("*.aof"))
        self._limit(size + 1)

    def free_disk(self) -> None:
        """Files may grow again."""
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        assert self._process is not None
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, hard))

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False


@dataclass(eq=False)
class Stack:
    """Everything that runs.

    Attributes:
        bundle: the served version.
        redis: behind the service.
        server: `tessera serve`, with its decoder as its child, or beside it where its clock can be set.
        slow: what stands before Redis, where something does.
        clock: the file that says by how much its clock is wrong, where it has such a clock.
        folder: for files of a run.
        variables: the environment of the server.
    """

    bundle: Bundle
    redis: OwnRedis
    server: ServerProcess
    slow: SlowRedis | None
    clock: Path | None
    folder: Path
    variables: Mapping[str, str]
    _asked: tuple[str, float] = ("", 0.0)

    @property
    def log(self) -> str:
        """What the server and its decoder have said."""
        return (self.folder / "server.log").read_text(errors="replace")

    @property
    def expected(self) -> Path:
        """The lists of the users with an entry."""
        return self.folder / "expected.json"

    def fill(self, mark: str, seconds: float) -> None:
        """What a refresh leaves behind, and users for a run of the load who have a history alone."""
        self._asked = mark, seconds
        random = np.random.default_rng(0)
        keys, items = Keys(), len(self.bundle.catalog)
        pipeline = self.redis.client.pipeline(transaction=False)
        scores = np.sort(random.uniform(-12, -2, _ENTRY_ITEMS))[::-1].astype(np.float16)
        expected = {}
        for number in range(_CACHED_USERS):
            user = f"user-{number}"
            drawn = random.choice(items, _ENTRY_ITEMS + _HISTORY_ITEMS, replace=False)
            seen = [f"item-{item}" for item in drawn[_ENTRY_ITEMS:]]
            digest = history_digest(item.encode() for item in seen)
            codes = self.bundle.item_codes.codes_NL[drawn[:_ENTRY_ITEMS]]
            entry = CacheEntry(codes, scores, digest, int(time.time()), "torch")
            pipeline.hset(keys.bucket_of(self.bundle.entry_layout, user), user, entry.pack())
            pipeline.delete(keys.history(user))
            pipeline.rpush(keys.history(user), *seen)
            expected[user] = [f"item-{item}" for item in drawn[:_TOP]]
        for user in new_users(mark, seconds):
            pipeline.rpush(keys.history(user), *[f"item-{item}" for item in random.choice(items, _HISTORY_ITEMS)])
        pipeline.execute()
        self.expected.write_text(json.dumps(expected))

    def fill_again(self) -> None:
        """The same as last time."""
        self.fill(*self._asked)

    def wait_until_well(self) -> None:
        """Until Redis and decoder answer, and a decode comes in time."""
        _wait_until(lambda: self._status() == "ready" and self._decodes(), "the service")

    def history(self, user: str) -> set[str]:
        """The items of a user, as Redis has them."""
        return {item.decode() for item in self.redis.client.lrange(Keys().history(user), 0, -1)}

    def signal_decoder(self, number: signal.Signals) -> None:
        """Send a signal to the decoder, where there is one just now."""
        for pid in self._children():
            with contextlib.suppress(OSError):
                if b"app.decoder.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, number)

    def start_another(self) -> tuple[int, str]:
        """Start a second server, which is expected to end by itself: its exit code and what it said."""
        command = [sys.executable, "-m", "tessera", "serve", "--decoder", "none", "--port", "0"]
        environment = {**os.environ, **self.variables}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stderr.strip()

    def _children(self) -> list[int]:
        words = [path.read_text().split() for path in Path(f"/proc/{self.server.pid}/task").glob("*/children")]
        return [int(pid) for line in words for pid in line]

    def _status(self) -> str:
        body = self.server.get("/health/ready").partition(b"\r\n\r\n")[2]
        return str(json.loads(body)["status"]) if body else ""

    def _decodes(self) -> bool:
        # Somebody new each time: an answered one has an entry.
        user = f"well-{time.monotonic_ns()}"
        self.redis.client.rpush(Keys().history(user), "item-1", "item-2")
        body = self.server.get(f"/recommend/{user}").partition(b"\r\n\r\n")[2]
        return bool(body) and json.loads(body)["source"] == "live"


@contextlib.contextmanager
def stack(bundle: Bundle, folder: Path, *, slowed: bool = False, faked_clock: Path | None = None) -> Iterator[Stack]:
    """Start all of it.

    Args:
        bundle: a published version, with a language model.
        folder: for what it leaves; new.
        slowed: whether something that can hold back answers stands before Redis.
        faked_clock: the library that makes the server's clock wrong, where that is wanted.
    """
    folder.mkdir()
    own = OwnRedis(folder / "redis")
    with contextlib.ExitStack() as running:
        running.callback(own.kill)
        own.start()
        slow = running.enter_context(slow_redis(own.socket, folder / "slow.sock")) if slowed else None
        variables = {
            "TESSERA_STORE": str(bundle.path.parent),
            "TESSERA_HOME": str(folder / "home"),
            "TESSERA_REDIS_URL": f"unix://{own.socket if slow is None else slow.socket}",
            "TESSERA_DECODER_ENGINE": "torch",
            "TESSERA_DECODER_THREADS": "1",
        }
        clock = None
        if faked_clock is not None:
            clock = folder / "clock"
            clock.write_text("+0\n")
            # A decoder with the right time: under the library a decode takes longer than its deadline.
            decoder = DecoderSettings(store=bundle.path.parent, engine="torch", threads=1)
            variables["TESSERA_DECODER_ADDRESS"] = running.enter_context(DecoderChild(decoder, folder)).address
            variables |= {
                "LD_PRELOAD": str(faked_clock),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                # Looked at again after a second: at every call, the library slows everything several times over.
                "FAKETIME_CACHE_DURATION": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        server = running.enter_context(
            started(["tessera", "serve", "--port"], "/health/live", variables, log=folder / "server.log")
        )
        yield Stack(bundle, own, server, slow, clock, folder, variables)


def _wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WELL_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} was not well within {_WELL_S:.0f} s")
        time.sleep(_POLL_S)
