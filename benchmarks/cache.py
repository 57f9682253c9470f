"""Twenty cached items take at most 250 bytes a user in Redis, and reading them costs what a GET of their bytes costs.

Measured, on the embedded Redis and, for the bytes, on another build where the PATH has one: the growth of used_memory
by 100,000 users' lists, keys, tables and expiries included, as a refresh writes them and in five other ways; how fast a
refresh writes them, histories of 50 items looked at again, departed users looked for, and its ledger included; and how
long one entry takes to be read and unpacked, read for read in turn with a GET. No row decodes anything: whoever feeds
a refresh does so at some hundred to some thousand users a second.
Floor: of the bytes, user ids and packed entries; of writing, `redis-benchmark -t set` with values of an entry's size
and as many commands in a pipeline as a shard has users (without that program, such SETs over a bare socket), and the
same HSETs over a bare socket, prepared beforehand, one round trip a shard; of reading, a GET of a string as long as an
entry by the same client.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.cached_lists import CachedLists, K
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.redis_servers import Server, servers
from model_store.cache_entries import CacheEntry, packed_bytes
from model_store.cache_keys import COMPACT_ENTRY_BYTES, Keys
from offline.refresh.config import RefreshConfig

_HISTORY = [b"item-%05d" % item for item in range(50)]
_DEFAULT_VALUE_BYTES = 64
"""hash-max-listpack-value of a Redis that was told nothing."""
_TIMES_USERS = 5
"""SETs of redis-benchmark for each user, so that it runs long enough to be timed."""
_IN_USE = "in use: hashes of some dozen users"
_REFRESH = "refresh, once decoded"
_ENTRIES = "its HSETs and expiries alone"
_SETS = "SETs over a bare socket"
_REDIS_BENCHMARK = "redis-benchmark -t set"

_BYTES_PER_USER = 250.0
_TIMES_JSON = 5.0
_TIMES_SORTED_SETS = 3.0
_OF_REDIS_BENCHMARK = 0.7
_TIMES_GET = 1.5


def measure(quick: bool) -> Report:
    """Fill, write and read."""
    users = 20_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, servers(Path(folder)) as found:
        lists = CachedLists(Path(folder) / "store", users)
        sizes = {server.name: _sizes(server, lists) for server in found}
        rates = _write_rates(found[0], lists, rounds=3 if quick else 7)
        took = _read_times(found[0], lists, reads=5_000 if quick else 20_000)
    return _report(found, lists, sizes, rates, took)


def _sizes(server: Server, lists: CachedLists) -> dict[str, float]:
    """Bytes a user of each layout."""
    layouts: dict[str, Callable[[], None]] = {
        _IN_USE: lambda: lists.refresh(server.client, []),
        "the same, limits of compact hashes not raised": lambda: _refresh_with_default_limits(server, lists),
        "one key a user": lambda: lists.one_key_a_user(server.client),
        "one string for 48 users": lambda: lists.packed_shards(server.client),
        "JSON, one key a user": lambda: lists.json_lists(server.client),
        "sorted set, one key a user": lambda: lists.sorted_sets(server.client),
    }
    sizes = {}
    for name, fill in layouts.items():
        harness.progress(f"{server.name}: {name}")
        server.client.flushall()
        before = server.used_memory()
        fill()
        sizes[name] = (server.used_memory() - before) / len(lists.users)
    server.client.flushall()
    return sizes


def _refresh_with_default_limits(server: Server, lists: CachedLists) -> None:
    # By its name of Redis 6.2, which later ones still know.
    server.client.config_set("hash-max-ziplist-value", _DEFAULT_VALUE_BYTES)
    lists.refresh(server.client, [])
    server.client.config_set("hash-max-ziplist-value", COMPACT_ENTRY_BYTES)


def _write_rates(server: Server, lists: CachedLists, rounds: int) -> dict[str, tuple[Spread, float]]:
    """Users a second, and the bytes that went to Redis for each."""
    users, pipeline = len(lists.users), RefreshConfig().shard_users
    lists.put_histories(server.client, _HISTORY)
    sets = [
        _command(b"SET", f"benchmark:{user}".encode(), lists.packed_of(number))
        for number, user in enumerate(lists.users)
    ]
    set_requests = [(b"".join(some), len(some)) for some in _slices(sets, pipeline)]
    hash_requests = [
        (b"".join(_hset(bucket, entries) for bucket, entries in shard), len(shard)) for shard in lists.entries_by_bucket
    ]
    sides: dict[str, Callable[[], float]] = {
        _REFRESH: lambda: harness.seconds(lambda: lists.refresh(server.client, _HISTORY)),
        "its UserRefresh.write alone": lambda: harness.seconds(lambda: lists.write(server.client, _HISTORY)),
        _ENTRIES: lambda: harness.seconds(lambda: lists.put_entries(server.client)),
        "floor: its HSETs over a bare socket": lambda: _send_s(server, hash_requests),
        _SETS: lambda: _send_s(server, set_requests),
    }
    if (program := shutil.which("redis-benchmark")) is not None:
        sides[_REDIS_BENCHMARK] = lambda: _redis_benchmark_s(program, server, users, pipeline)
    harness.progress("writing")
    sent = {name: _bytes_sent(server, side) / users for name, side in sides.items()}
    sent[_REDIS_BENCHMARK] = sent.get(_REDIS_BENCHMARK, 0.0) / _TIMES_USERS
    took = harness.interleaved(sides, rounds)
    return {name: (spread.per_second(users), sent[name]) for name, spread in took.items()}


def _bytes_sent(server: Server, side: Callable[[], float]) -> int:
    before = server.client.info("stats")["total_net_input_bytes"]
    side()
    return int(server.client.info("stats")["total_net_input_bytes"] - before)


def _redis_benchmark_s(program: str, server: Server, users: int, pipeline: int) -> float:
    """Seconds that its SETs would take for all users."""
    options = {
        "-s": server.socket,
        "-t": "set",
        "-n": _TIMES_USERS * users,
        "-r": users,
        "-d": packed_bytes(K),
        "-P": pipeline,
    }
    command = [program, *(str(word) for option in options.items() for word in option), "--csv"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = next(line.split(",")[1] for line in said.splitlines() if line.startswith('"SET"'))
    return users / float(rate.strip('"'))


def _send_s(server: Server, requests: list[tuple[bytes, int]]) -> float:
    """Seconds for all requests, one after the other; each is some commands with one short answer apiece."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(server.socket))
        begin = time.perf_counter()
        for request, answers in requests:
            connection.sendall(request)
            while answers:
                answers -= connection.recv(1 << 16).count(b"\n")
        return time.perf_counter() - begin


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _hset(bucket: str, entries: dict[str, bytes]) -> bytes:
    fields = [word for user, entry in entries.items() for word in (user.encode(), entry)]
    return _command(b"HSET", bucket.encode(), *fields)


def _slices(commands: list[bytes], size: int) -> list[list[bytes]]:
    return [commands[start : start + size] for start in range(0, len(commands), size)]


def _read_times(server: Server, lists: CachedLists, reads: int) -> dict[str, NDArray[np.float64]]:
    """Microseconds of each read."""
    harness.progress("reading")
    client, keys = server.client, Keys()
    server.client.flushall()
    lists.refresh(client, [])
    lists.one_key_a_user(client)
    random = np.random.default_rng(1)
    read = [lists.users[number] for number in random.integers(0, len(lists.users), reads)]
    buckets = [(keys.bucket_of(lists.layout, user), user) for user in read]
    strings = [f"{keys.namespace}:entries:{lists.bundle.version}:{user}" for user in read]
    sides: dict[str, Callable[[int], object]] = {
        "HGET and unpack": lambda number: CacheEntry.unpack(client.hget(*buckets[number])),
        "HGET": lambda number: client.hget(*buckets[number]),
        "GET": lambda number: client.get(strings[number]),
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(reads):
        for name in reversed(sides) if number % 2 else sides:
            side = sides[name]
            begin = time.perf_counter()
            side(number)
            took[name].append((time.perf_counter() - begin) * 1e6)
    return {name: np.array(times) for name, times in took.items()}


def _report(
    found: list[Server],
    lists: CachedLists,
    sizes: dict[str, dict[str, float]],
    rates: dict[str, tuple[Spread, float]],
    took: dict[str, NDArray[np.float64]],
) -> Report:
    users = len(lists.users)
    in_use = sizes[found[0].name]
    least = packed_bytes(K) + sum(map(len, lists.users)) / users
    standard = _REDIS_BENCHMARK if _REDIS_BENCHMARK in rates else _SETS
    json_lists, sorted_sets = (in_use[f"{name}, one key a user"] for name in ("JSON", "sorted set"))
    p99 = {name: float(np.percentile(times, 99)) for name, times in took.items()}
    return Report(
        tables=[
            Table(
                f"bytes a user: {users:,} users, K = {K}, {users / lists.layout.buckets:.1f} users to a bucket",
                ("", *sizes),
                [
                    *((name, *(found[name] for found in sizes.values())) for name in in_use),
                    ("floor: ids and packed entries", *(least for _ in sizes)),
                ],
            ),
            Table(
                f"writing, pipelines of {RefreshConfig().shard_users}: users a second, median (min..max)",
                ("", "users/s", "bytes to Redis a user"),
                [(name, *rate) for name, rate in rates.items()],
            ),
            Table(
                "reading one entry: microseconds",
                ("", "p50", "p99"),
                [(name, float(np.percentile(times, 50)), p99[name]) for name, times in took.items()],
            ),
        ],
        claims=[
            Claim.at_most(f"memory, K = {K}", in_use[_IN_USE], "bytes/user", _BYTES_PER_USER),
            Claim.at_least("memory of JSON against it", json_lists / in_use[_IN_USE], "x", _TIMES_JSON),
            Claim.at_least("memory of sorted sets against it", sorted_sets / in_use[_IN_USE], "x", _TIMES_SORTED_SETS),
            *(
                Claim.at_least(
                    f"{name} against {standard}",
                    rates[name][0].median / rates[standard][0].median,
                    "x",
                    _OF_REDIS_BENCHMARK,
                )
                for name in (_ENTRIES, _REFRESH)
            ),
            Claim.at_most("reading against a GET, p99", p99["HGET and unpack"] / p99["GET"], "x", _TIMES_GET),
        ],
        notes=[f"writing and reading: {found[0].name}"],
    )


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
