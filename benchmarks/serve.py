"""A cached answer costs no more than FastAPI needs to send ready bytes, and half of what it needs to send a dict.

Measured: GET /recommend/{user} on loopback against `tessera serve` with a real Redis: 10,000 users with entries of 20
items and histories of 50, ten items an answer. Beside it, in turns and under the same uvicorn, FastAPI routes with the
same JSON (`benchmarks/bare_app.py`): (a) returned as a dict, (b) returned as ready bytes. Throughput over 32 keep-alive
connections, one worker; p99 in an open loop, at half of our own throughput for both; the median of one connection; two
workers. The load generator is `benchmarks/http_load.py`, in a process of its own: it and Redis take part of the
machine, on two cores from the second worker.
Floor: a plain ASGI application with ready bytes and one round trip to Redis for each answer.
"""

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import redis

from app import embedded_redis
from app.settings import Settings
from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.http_load import OPENING_S, Load, load
from benchmarks.server_process import started
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import Keys
from tests.app.light_bundle import publish_light_bundle

USERS = 10_000
_ITEMS = 12_000
_ENTRY_ITEMS = 20
_HISTORY_ITEMS = 50
_MANY = 32
_OPEN_CONNECTIONS = 64
_PATH = "/recommend/user-0"
_OURS = '"source":"cache"'
_THEIRS = "recommendation_id"

_TIMES_DICT = 2.0
_TIMES_READY = 0.8
_TIMES_P99 = 1.5
_P50_MS = 0.5

TESSERA, TWO, DICT, TYPED, READY, FLOOR = (
    "tessera",
    "tessera, 2 workers",
    "(a) FastAPI, dict",
    "FastAPI, annotated dict",
    "(b) FastAPI, ready bytes",
    "floor: ASGI, Redis, ready bytes",
)
_KINDS = {DICT: "dict", TYPED: "typed", READY: "ready", FLOOR: "floor"}


def measure(quick: bool) -> Report:
    """Load all servers in turn."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(store=Path(folder) / "store", home=Path(folder) / "home")
        bundle = publish_light_bundle(settings.store, items=_ITEMS)
        try:
            url = embedded_redis.ensure_running(settings.home)
            fill(redis.Redis.from_url(url), bundle)
            return _measure(settings, bundle, url, seconds=0.4 if quick else 3.0, rounds=3 if quick else 9)
        finally:
            embedded_redis.stop(settings.home)


def fill(client: redis.Redis, bundle: Bundle) -> None:
    """What a refresh leaves behind."""
    random = np.random.default_rng(0)
    keys = Keys()
    pipeline = client.pipeline(transaction=False)
    scores = np.sort(random.uniform(-12, -2, _ENTRY_ITEMS))[::-1].astype(np.float16)
    for user in range(USERS):
        items = random.choice(_ITEMS, _ENTRY_ITEMS + _HISTORY_ITEMS, replace=False)
        codes = bundle.item_codes.codes_NL[items[:_ENTRY_ITEMS]]
        seen = [f"item-{item}" for item in items[_ENTRY_ITEMS:]]
        digest = history_digest(item.encode() for item in seen)
        entry = CacheEntry(codes, scores, digest, int(time.time()), "torch")
        pipeline.hset(keys.bucket_of(bundle.entry_layout, f"user-{user}"), f"user-{user}", entry.pack())
        pipeline.rpush(keys.history(f"user-{user}"), *seen)
    pipeline.execute()


def _measure(settings: Settings, bundle: Bundle, url: str, seconds: float, rounds: int) -> Report:
    variables = {
        "TESSERA_STORE": str(settings.store),
        "TESSERA_HOME": str(settings.home),
        "BENCH_REDIS": url,
        "BENCH_BUCKETS": str(bundle.entry_layout.buckets),
    }
    serve = ["tessera", "serve", "--decoder", "none"]
    with ExitStack() as stack:
        servers = {
            TESSERA: stack.enter_context(started([*serve, "--port"], _PATH, variables)),
            TWO: stack.enter_context(started([*serve, "--workers", "2", "--port"], _PATH, variables)),
        }
        body = servers[TESSERA].get(_PATH).partition(b"\r\n\r\n")[2]
        assert len(json.loads(body)["items"]) == 10
        body_file = settings.store.parent / "body"
        body_file.write_bytes(body)
        for name, kind in _KINDS.items():
            module = ["benchmarks.bare_app", kind, str(body_file)]
            servers[name] = stack.enter_context(started(module, _PATH, variables))

        answer_us: dict[str, list[float]] = {name: [] for name in servers if name != TWO}

        def loaded(name: str, connections: int, rate: float | None = None) -> Load:
            marker = _OURS if name in (TESSERA, TWO) else _THEIRS
            port = servers[name].port
            return load(port, connections=connections, seconds=seconds, users=USERS, marker=marker, rate=rate)

        harness.progress("warming up")
        for name in (TESSERA, TWO):
            loaded(name, _MANY)

        def with_processor_time(name: str) -> Load:
            before = servers[name].processor_s()
            run = loaded(name, _MANY)
            if name in answer_us:
                # The first of a run are answered and not counted.
                answers = run.requests + run.per_second * OPENING_S
                answer_us[name].append((servers[name].processor_s() - before) / answers * 1e6)
            return run

        harness.progress(f"{rounds} rounds of {_MANY} connections")
        many = _in_turn(rounds, {name: lambda name=name: with_processor_time(name) for name in servers})
        harness.progress(f"{rounds} rounds of 1 connection")
        one = _in_turn(rounds, {name: lambda name=name: loaded(name, 1) for name in (TESSERA, READY, FLOOR)})
        rate = Spread.of(run.per_second for run in many[TESSERA]).median / 2
        harness.progress(f"{rounds} rounds at {rate:.0f} requests/s")
        half = _in_turn(
            rounds, {name: lambda name=name: loaded(name, _OPEN_CONNECTIONS, rate) for name in (TESSERA, READY, FLOOR)}
        )
        memory = servers[TESSERA].resident_mib()
    return _report(many, one, half, answer_us, f"{rounds} runs of {seconds:g} s", rate, len(body), memory)


def _in_turn(rounds: int, sides: dict[str, Callable[[], Load]]) -> dict[str, list[Load]]:
    runs: dict[str, list[Load]] = {name: [] for name in sides}

    def side(name: str) -> Callable[[], float]:
        def once() -> float:
            runs[name].append(sides[name]())
            return 0.0

        return once

    harness.interleaved({name: side(name) for name in sides}, rounds)
    return runs


def _report(
    many: dict[str, list[Load]],
    one: dict[str, list[Load]],
    half: dict[str, list[Load]],
    answer_us: dict[str, list[float]],
    runs: str,
    rate: float,
    body_bytes: int,
    memory: float,
) -> Report:
    def against(side: str) -> Spread:
        # Round by round: whatever else the machine did in one met both.
        return Spread.of(ours.per_second / its.per_second for ours, its in zip(many[TESSERA], many[side], strict=True))

    tails = Spread.of(ours.p99_us / its.p99_us for ours, its in zip(half[TESSERA], half[READY], strict=True))
    workers = Spread.of(
        two.per_second / single.per_second for two, single in zip(many[TWO], many[TESSERA], strict=True)
    )
    mine = [*many[TESSERA], *many[TWO], *one[TESSERA], *half[TESSERA]]
    latency_ms = _column(one[TESSERA], "p50_us", 1e-3).median
    return Report(
        tables=[
            _table(f"{_MANY} connections, body of {body_bytes} bytes: median (min..max) of {runs}", many),
            _table(f"1 connection, {runs}", one),
            _table(f"open loop, {rate:.0f} requests/s on {_OPEN_CONNECTIONS} connections, {runs}", half),
            Table(
                f"processor time of one answer, {_MANY} connections, {runs}",
                ("", "us"),
                [(name, Spread.of(taken)) for name, taken in answer_us.items()],
            ),
            Table(
                "tessera, throughput round by round",
                ("against", "x"),
                [*((name, against(name)) for name in _KINDS), ("2 workers against 1", workers)],
            ),
        ],
        claims=[
            Claim.at_least("throughput against (a), a constant dict", against(DICT).median, "x", _TIMES_DICT),
            Claim.at_least("throughput against (b), ready bytes", against(READY).median, "x", _TIMES_READY),
            Claim.at_most("p99 at half load against (b)", tails.median, "x", _TIMES_P99),
            Claim.at_most("cached answer, 1 connection, p50", latency_ms, "ms", _P50_MS),
            Claim.at_most(
                "answers that were not from the cache",
                sum(run.unexpected for run in mine) / sum(run.requests for run in mine),
                "of all",
                0,
            ),
        ],
        notes=[
            f"memory of the API process after the load: {memory:.0f} MiB",
            "The generator and Redis need a part of a core each: 2 workers on 2 cores share them with both.",
        ],
    )


def _table(title: str, runs: dict[str, list[Load]]) -> Table:
    rows = [
        (
            name,
            _column(loads, "p50_us", 1e-3),
            _column(loads, "p99_us", 1e-3),
            _column(loads, "per_second"),
            f"{_column(loads, 'busy').median:.0%}",
        )
        for name, loads in runs.items()
    ]
    return Table(title, ("", "p50, ms", "p99, ms", "requests/s", "generator busy"), rows)


def _column(loads: list[Load], field: str, factor: float = 1.0) -> Spread:
    return Spread.of(getattr(one, field) * factor for one in loads)


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
