"""`tessera serve` answers about a second after it is started, within 3 times a bare FastAPI process, and without torch.

Measured: from starting the process to its first 200 on /recommend/..., with a published bundle of 12,000 items and no
decoder, its embedded Redis already running or not, with one worker or two; then the memory of whatever answers.
Floor: a FastAPI hello-world under the same uvicorn, started the same way, and a Python interpreter that does nothing.
Files are in the page cache on all sides. Reads /proc, so it needs Linux.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app import embedded_redis
from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.server_process import started
from tests.app.light_bundle import publish_light_bundle

_ITEMS = 12_000
_SETTLE_S = 0.3
_READY_S = 1.0
_TIMES_HELLO = 3.0
_MEMORY_MIB = 250.0

_INTERPRETER = "python -c pass"
_HELLO = "FastAPI hello-world"
_RUNNING = "tessera serve, Redis running"
_STOPPED = "tessera serve, Redis not running"
_TWO = "tessera serve, 2 workers"


def measure(quick: bool) -> Report:
    """Start each side in turn, several times."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder) / "home"
        publish_light_bundle(Path(folder) / "store", items=_ITEMS)
        try:
            return _measure(home, Path(folder) / "store", rounds=3 if quick else 11)
        finally:
            embedded_redis.stop(home)


def _measure(home: Path, store: Path, rounds: int) -> Report:
    memory: dict[str, list[float]] = {_HELLO: [], _RUNNING: [], _STOPPED: [], _TWO: []}
    torch_seen: list[bool] = []
    serve = ["tessera", "serve", "--decoder", "none"]
    variables = {"TESSERA_STORE": store, "TESSERA_HOME": home}
    body = store.parent / "hello"
    body.write_text('{"hello": "world"}')

    def ready(name: str, module: list[str]) -> float:
        environment = {key: str(value) for key, value in variables.items()}
        with started(module, "/recommend/ann", environment) as server:
            time.sleep(_SETTLE_S)
            if name == _TWO:
                # Both have to be up: the first answers alone for a while.
                time.sleep(server.ready_s)
            memory[name] += server.workers_mib() or [server.resident_mib()]
            if name != _HELLO:
                torch_seen.append(server.maps("torch"))
            return server.ready_s

    def with_redis_running() -> float:
        embedded_redis.ensure_running(home)
        return ready(_RUNNING, [*serve, "--port"])

    def with_redis_stopped() -> float:
        embedded_redis.stop(home)
        return ready(_STOPPED, [*serve, "--port"])

    def with_two_workers() -> float:
        embedded_redis.ensure_running(home)
        return ready(_TWO, [*serve, "--workers", "2", "--port"])

    sides: dict[str, Callable[[], float]] = {
        _INTERPRETER: lambda: harness.seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)),
        _HELLO: lambda: ready(_HELLO, ["benchmarks.bare_app", "ready", str(body)]),
        _RUNNING: with_redis_running,
        _STOPPED: with_redis_stopped,
        _TWO: with_two_workers,
    }
    harness.progress("warming the page cache")
    harness.interleaved(sides, 1)
    for samples in memory.values():
        samples.clear()
    harness.progress(f"{rounds} rounds")
    times = harness.interleaved(sides, rounds)

    resident = {name: Spread.of(samples) for name, samples in memory.items()}
    hello = times[_HELLO].median
    rows = [
        (name, spread.times(1000), f"{spread.median / hello:.2f}", resident.get(name, "-"))
        for name, spread in times.items()
    ]
    return Report(
        tables=[
            Table(
                f"median (min..max) of {rounds}",
                ("", "first 200, ms", "x hello-world", "memory of a worker, MiB"),
                rows,
            )
        ],
        claims=[
            Claim.at_most("first answer, Redis running", times[_RUNNING].median, "s", _READY_S),
            Claim.at_most("first answer, Redis not running", times[_STOPPED].median, "s", _READY_S),
            Claim.at_most("start against hello-world", times[_RUNNING].median / hello, "x", _TIMES_HELLO),
            Claim.at_most("memory of the API process", resident[_RUNNING].median, "MiB", _MEMORY_MIB),
            Claim.at_most("memory of each of 2 workers", resident[_TWO].median, "MiB", _MEMORY_MIB),
            Claim.at_most("API processes with torch in memory", float(sum(torch_seen)), "processes", 0),
        ],
        notes=[f"A file named *torch* is mapped by {sum(torch_seen)} of {len(torch_seen)} API processes."],
    )


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
