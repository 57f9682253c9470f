"""A cached recommendation over HTTP takes under a millisecond, at most 3 times what HTTP and Redis cost by themselves.

Measured: GET /recommend/{user} on loopback against `tessera serve` (one worker) with a real Redis: 10,000 users with
entries of 20 items and histories of 50, ten items an answer, over 1 and over 32 keep-alive connections.
Floor: a FastAPI route with a constant body of the same size under the same uvicorn (what HTTP costs), plus the same
Redis pipeline alone by the client the API uses (one round trip); by a raw socket it is shown too. The load generator is
`benchmarks/http_load.py`, in a process of its own.
"""

import json
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import redis
import uvloop

from app import embedded_redis
from app.recommendation_cache import RecommendationCache
from app.redis_connection import connect
from app.settings import Settings
from app.telemetry import Telemetry
from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.http_load import Load, load
from benchmarks.server_process import started
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import EntryLayout, Keys
from tests.app.light_bundle import publish_light_bundle

_ITEMS = 12_000
_USERS = 10_000
_ENTRY_ITEMS = 20
_HISTORY_ITEMS = 50
_MANY = 32
_MARKER = '"source":"cache"'
_END = b"$3\r\nend\r\n"

_P50_MS = 1.0
_P99_MS = 2.0
_TIMES_FLOOR = 3.0
_PER_SECOND = 1000.0


def measure(quick: bool) -> Report:
    """Load both servers in turn."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(store=Path(folder) / "store", home=Path(folder) / "home")
        bundle = publish_light_bundle(settings.store, items=_ITEMS)
        try:
            url = embedded_redis.ensure_running(settings.home)
            _fill(redis.Redis.from_url(url), bundle)
            return _measure(settings, bundle, url, seconds=1.0 if quick else 4.0, rounds=3 if quick else 9)
        finally:
            embedded_redis.stop(settings.home)


def _fill(client: redis.Redis, bundle: Bundle) -> None:
    """What a refresh leaves behind."""
    random = np.random.default_rng(0)
    keys = Keys()
    pipeline = client.pipeline(transaction=False)
    scores = np.sort(random.uniform(-12, -2, _ENTRY_ITEMS))[::-1].astype(np.float16)
    for user in range(_USERS):
        items = random.choice(_ITEMS, _ENTRY_ITEMS + _HISTORY_ITEMS, replace=False)
        codes = bundle.item_codes.codes_NL[items[:_ENTRY_ITEMS]]
        seen = [f"item-{item}" for item in items[_ENTRY_ITEMS:]]
        digest = history_digest(item.encode() for item in seen)
        entry = CacheEntry(codes, scores, digest, int(time.time()), "torch")
        pipeline.hset(keys.bucket_of(bundle.entry_layout, f"user-{user}"), f"user-{user}", entry.pack())
        pipeline.rpush(keys.history(f"user-{user}"), *seen)
    pipeline.execute()


def _measure(settings: Settings, bundle: Bundle, url: str, seconds: float, rounds: int) -> Report:
    variables = {"TESSERA_STORE": str(settings.store), "TESSERA_HOME": str(settings.home)}
    path = "/recommend/user-0"
    loads: dict[str, list[Load]] = {}
    with started(["tessera", "serve", "--decoder", "none", "--port"], path, variables) as tessera:
        body = tessera.get(path).partition(b"\r\n\r\n")[2]
        assert len(json.loads(body)["items"]) == 10
        with started(["benchmarks.bare_app", str(len(body))], path, {}) as bare:

            def loaded(name: str, port: int, connections: int, marker: str) -> Callable[[], float]:
                def once() -> float:
                    one = load(port, connections=connections, seconds=seconds, users=_USERS, marker=marker)
                    loads.setdefault(name, []).append(one)
                    return one.p50_us

                return once

            sides = {
                f"{name}, {connections} connection{'s' if connections > 1 else ''}": (port, connections, marker)
                for connections in (1, _MANY)
                for name, port, marker in (("bare route", bare.port, "xxx"), ("tessera", tessera.port, _MARKER))
            }
            calls = {name: loaded(name, *side) for name, side in sides.items()}
            calls["redis, client of the API"] = lambda: _client_round_trip_s(
                settings, url, bundle.entry_layout, seconds / 2
            )
            calls["redis, raw socket"] = lambda: _raw_round_trip_s(settings, bundle.entry_layout, seconds / 2)
            harness.progress("warming up")
            harness.interleaved(calls, 1)
            loads.clear()
            harness.progress(f"{rounds} rounds")
            medians = harness.interleaved(calls, rounds)
            memory = tessera.resident_mib()
    return _report(loads, medians, len(body), memory, rounds, seconds)


def _report(
    loads: dict[str, list[Load]],
    medians: dict[str, Spread],
    body_bytes: int,
    memory: float,
    rounds: int,
    seconds: float,
) -> Report:
    def column(name: str, field: str, factor: float = 1.0) -> Spread:
        return Spread.of(getattr(one, field) * factor for one in loads[name])

    rows = [
        (
            name,
            column(name, "p50_us", 1e-3),
            column(name, "p95_us", 1e-3),
            column(name, "p99_us", 1e-3),
            column(name, "per_second"),
            f"{column(name, 'busy').median:.0%}",
        )
        for name in loads
    ]
    trips = [(name, spread.times(1000)) for name, spread in medians.items() if name not in loads]
    one, many = (f"tessera, {count} connection{'s' if count > 1 else ''}" for count in (1, _MANY))
    bare_one, bare_many = (name.replace("tessera", "bare route") for name in (one, many))
    floor_ms = column(bare_one, "p50_us", 1e-3).median + trips[0][1].median
    latency_ms = column(one, "p50_us", 1e-3).median
    return Report(
        tables=[
            Table(
                f"HTTP, body of {body_bytes} bytes: median (min..max) of {rounds} runs of {seconds:g} s",
                ("", "p50, ms", "p95, ms", "p99, ms", "requests/s", "generator busy"),
                rows,
            ),
            Table("one Redis pipeline, one after the other", ("", "p50, ms"), trips),
            Table(
                "tessera against the bare route",
                ("", "x"),
                [
                    ("p50, 1 connection", latency_ms / column(bare_one, "p50_us", 1e-3).median),
                    (
                        f"time a request, {_MANY} connections",
                        column(bare_many, "per_second").median / column(many, "per_second").median,
                    ),
                ],
            ),
        ],
        claims=[
            Claim.at_most("cached answer, 1 connection, p50", latency_ms, "ms", _P50_MS),
            Claim.at_most("cached answer, 1 connection, p99", column(one, "p99_us", 1e-3).median, "ms", _P99_MS),
            Claim.at_most(
                "answers that were not from the cache",
                sum(load.unexpected for load in [*loads[one], *loads[many]])
                / sum(load.requests for load in [*loads[one], *loads[many]]),
                "of all",
                0,
            ),
            Claim.at_most(
                "cached answer against bare route + Redis pipeline", latency_ms / floor_ms, "x", _TIMES_FLOOR
            ),
            Claim.at_least(
                f"cached answers, {_MANY} connections, one worker",
                column(many, "per_second").median,
                "requests/s",
                _PER_SECOND,
            ),
        ],
        notes=[f"memory of the API process after the load: {memory:.0f} MiB"],
    )


def _client_round_trip_s(settings: Settings, url: str, layout: EntryLayout, seconds: float) -> float:
    """Median time of the read that an answer begins with, by the API's own client on the API's event loop."""

    async def reads() -> float:
        client = connect(url, connect_timeout_s=5, timeout_s=5, max_connections=1)
        # Patient: a slow round trip is to be measured, not given up.
        patient = settings.model_copy(update={"redis_timeout_ms": 5000})
        cache = RecommendationCache(client, patient, Telemetry())
        took = []
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            state = await cache.read(layout, f"user-{len(took) % _USERS}")
            took.append(time.perf_counter() - begin)
            assert state.entry is not None
        await cache.aclose()
        return Spread.of(took).median

    return uvloop.run(reads())


def _raw_round_trip_s(settings: Settings, layout: EntryLayout, seconds: float) -> float:
    """Median time of the same commands over a bare socket; an ECHO marks the end of the answer."""
    keys = Keys()
    requests = [
        _command("GET", keys.active)
        + _command("HGET", keys.bucket_of(layout, f"user-{user}"), f"user-{user}")
        + _command("LRANGE", keys.history(f"user-{user}"), "0", "-1")
        + _command("ECHO", "end")
        for user in range(_USERS)
    ]
    took = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(embedded_redis.socket_path(settings.home)))
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            connection.sendall(requests[len(took) % _USERS])
            answer = connection.recv(1 << 16)
            while not answer.endswith(_END):
                answer += connection.recv(1 << 16)
            took.append(time.perf_counter() - begin)
    return Spread.of(took).median


def _command(*words: str) -> bytes:
    return "".join([f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]).encode()


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
