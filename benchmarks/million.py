"""A million cached users are served as fast as ten thousand, and a partial refresh beside it at most doubles the p99.

Measured: GET /recommend/{user} on loopback against `tessera serve` (one worker) with a real Redis, for users at random:
first of 10,000 with entries of 20 items and histories of 10, then of a million; then, of the million, with and without
a `tessera refresh --stale` at work on the 200,000 who have news, in turns (it is stopped and continued
by signal, so that one process is either there or not). The refresh runs at the lowest priority (`nice -n 19`), with one
thread, as it should where it shares its cores with the API. Its model is a random one of the shape of `scratch:small`.
Floor: the same server with nobody beside it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from app import embedded_redis
from app.settings import Settings
from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.http_load import Load, load
from benchmarks.server_process import started
from model_store.bundle import Bundle
from model_store.cache_entries import history_digest, pack_entries
from model_store.cache_keys import Keys
from offline.redis_connection import connect
from tests.tiny_bundle import build_tiny_bundle

_ITEMS, _FIRST_LEVEL = 12_000, 244
_HIDDEN, _LAYERS = 128, 2
_FEW = 10_000
_ENTRY_ITEMS = 20
_HISTORY_ITEMS = 10
_AT_A_TIME = 5_000
_CONNECTIONS = (1, 8)
_MARKER = '"source":'
"""Beside the refresh some answers are fresh and some are not: both are from the cache."""

_TIMES_QUIET = 2.0
_TIMES_FEW = 1.25


def measure(quick: bool) -> Report:
    """Load the server with few users, with many, and with many and a refresh."""
    many = 100_000 if quick else 1_000_000
    seconds, rounds = (1.0, 3) if quick else (4.0, 9)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(store=Path(folder) / "store", home=Path(folder) / "home")
        bundle = build_tiny_bundle(
            settings.store, items=_ITEMS, first_level=_FIRST_LEVEL, layers=_LAYERS, hidden=_HIDDEN, users=many
        )
        try:
            redis = connect(embedded_redis.ensure_running(settings.home))
            return _measure(settings, bundle, redis, many, seconds, rounds)
        finally:
            embedded_redis.stop(settings.home)


def _measure(settings: Settings, bundle: Bundle, redis: Any, many: int, seconds: float, rounds: int) -> Report:
    variables = {"TESSERA_STORE": str(settings.store), "TESSERA_HOME": str(settings.home)}
    loads: dict[str, list[Load]] = {}

    def loaded(name: str, users: int, connections: int) -> Callable[[], float]:
        def once() -> float:
            one = load(server.port, connections=connections, seconds=seconds, users=users, marker=_MARKER)
            loads.setdefault(f"{name}, {connections} connection{'s' if connections > 1 else ''}", []).append(one)
            return one.p99_us

        return once

    _fill(redis, bundle, range(_FEW))
    with started(["tessera", "serve", "--decoder", "none", "--port"], "/recommend/user-0", variables) as server:
        few = {str(count): loaded(f"{_FEW:,} users", _FEW, count) for count in _CONNECTIONS}
        harness.progress("warming up")
        harness.interleaved(few, 1)
        loads.clear()
        harness.interleaved(few, rounds)
        before = redis.info("memory")["used_memory"]
        harness.progress(f"filling the cache of {many:,} users")
        began = time.perf_counter()
        _fill(redis, bundle, range(_FEW, many))
        filled_s = time.perf_counter() - began
        bytes_per_user = (redis.info("memory")["used_memory"] - before) / (many - _FEW)
        _record_events(redis, bundle, range(many // 5))
        with _refreshing(variables, redis) as (go, stop):

            def beside(name: str, switch: Callable[[], None], connections: int) -> Callable[[], float]:
                once = loaded(name, many, connections)

                def call() -> float:
                    switch()
                    return once()

                return call

            sides = {
                f"{name} {count}": beside(f"{many:,} users{name}", switch, count)
                for count in _CONNECTIONS
                for name, switch in (("", stop), (" and a refresh", go))
            }
            waiting = redis.zcard(Keys().dirty)
            at_work = time.perf_counter()
            harness.interleaved(sides, rounds)
            refreshed = waiting - redis.zcard(Keys().dirty)
            at_work = (time.perf_counter() - at_work) / 2
    return _report(loads, many, rounds, seconds, bytes_per_user, filled_s, refreshed, refreshed / at_work)


def _fill(redis: Any, bundle: Bundle, users: range) -> None:
    """What histories and a refresh leave behind, written as they write it."""
    random = np.random.default_rng(users.start)
    keys, layout, item_ids = Keys(), bundle.entry_layout, bundle.catalog.item_ids
    codes_NL, now = bundle.item_codes.codes_NL, int(time.time())
    for start in range(users.start, users.stop, _AT_A_TIME):
        some = range(start, min(start + _AT_A_TIME, users.stop))
        items = random.integers(0, _ITEMS, (len(some), _ENTRY_ITEMS + _HISTORY_ITEMS))
        scores = -np.sort(random.uniform(2, 12, (len(some), _ENTRY_ITEMS)), axis=1)
        digests = np.array(
            [history_digest([item_ids[item].encode() for item in seen]) for seen in items[:, _ENTRY_ITEMS:]]
        )
        buckets: dict[str, dict[str, bytes]] = {}
        pipeline = redis.pipeline(transaction=False)
        for user, entry, seen in zip(
            some,
            pack_entries(codes_NL[items[:, :_ENTRY_ITEMS]], scores, digests, now, "torch"),
            items[:, _ENTRY_ITEMS:],
            strict=True,
        ):
            name = f"user-{user}"
            buckets.setdefault(keys.bucket_of(layout, name), {})[name] = entry
            pipeline.rpush(keys.history(name), *(item_ids[item] for item in seen))
        for bucket, entries in buckets.items():
            pipeline.hset(bucket, mapping=entries)
        pipeline.execute()


def _record_events(redis: Any, bundle: Bundle, users: range) -> None:
    """One for each of these users, as the API records it."""
    keys, item_ids = Keys(), bundle.catalog.item_ids
    for start in range(users.start, users.stop, _AT_A_TIME):
        some = range(start, min(start + _AT_A_TIME, users.stop))
        pipeline = redis.pipeline(transaction=False)
        for user in some:
            pipeline.rpush(keys.history(f"user-{user}"), item_ids[user % _ITEMS])
        pipeline.zadd(keys.dirty, {f"user-{user}": 1.0 for user in some})
        pipeline.execute()


@contextlib.contextmanager
def _refreshing(variables: dict[str, str], redis: Any) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A partial refresh under way, and what makes it go on and stop."""
    command = ["nice", "-n", "19", sys.executable, "-m", "tessera", "refresh", "--stale", "--engine", "torch"]
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            waiting = redis.zcard(Keys().dirty)
            harness.progress("starting a refresh")
            while redis.zcard(Keys().dirty) == waiting:
                if process.poll() is not None:
                    said.seek(0)
                    raise RuntimeError(f"the refresh ended: {said.read().decode()[-2000:]}")
                time.sleep(0.1)
            yield lambda: process.send_signal(signal.SIGCONT), lambda: process.send_signal(signal.SIGSTOP)
            if process.poll() is not None:
                raise RuntimeError("the refresh had nothing left to do before the end: mark more users")
        finally:
            process.kill()
            process.wait()


def _report(
    loads: dict[str, list[Load]],
    many: int,
    rounds: int,
    seconds: float,
    bytes_per_user: float,
    filled_s: float,
    refreshed: int,
    refreshed_per_second: float,
) -> Report:
    def column(name: str, field: str, factor: float = 1.0) -> Spread:
        return Spread.of(getattr(one, field) * factor for one in loads[name])

    def of(name: str, connections: int) -> str:
        return f"{name}, {connections} connection{'s' if connections > 1 else ''}"

    rows = [
        (name, column(name, "p50_us", 1e-3), column(name, "p99_us", 1e-3), column(name, "per_second")) for name in loads
    ]
    claims = [
        Claim.at_most("answers that were none", sum(one.unexpected for all in loads.values() for one in all), "", 0)
    ]
    for count in _CONNECTIONS:
        alone = column(of(f"{many:,} users", count), "p99_us").median
        claims += [
            Claim.at_most(
                f"p50 of {many:,} users against {_FEW:,}, {count} at a time",
                column(of(f"{many:,} users", count), "p50_us").median
                / column(of(f"{_FEW:,} users", count), "p50_us").median,
                "x",
                _TIMES_FEW,
            ),
            Claim.at_most(
                f"p99 beside a partial refresh against none, {count} at a time",
                column(of(f"{many:,} users and a refresh", count), "p99_us").median / alone,
                "x",
                _TIMES_QUIET,
            ),
        ]
    return Report(
        tables=[
            Table(
                f"median (min..max) of {rounds} runs of {seconds:g} s",
                ("", "p50, ms", "p99, ms", "requests/s"),
                rows,
            )
        ],
        claims=claims,
        notes=[
            f"refreshed meanwhile: {refreshed:,} users, {refreshed_per_second:.0f} a second of its own time",
            f"{bytes_per_user:.0f} bytes a user in Redis, histories of {_HISTORY_ITEMS} items included; "
            f"filled at {(many - _FEW) / filled_s:,.0f} users/s",
        ],
    )


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
