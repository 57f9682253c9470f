"""Request times of the last minutes: of all workers, forgotten when they are too old, kept when their worker dies."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.latency import latencies, quantile
from app.latency_windows import WINDOWS_MIN, LatencyWindows
from app.settings import Settings
from app.telemetry import latency_buckets
from tests.app.conftest import Cache
from tests.app.running_server import ROOT, free_port, serving

NOON = 1_800_000_000.0
ROUTE = "/recommend/{user_id}"


class Clock:
    """Unix seconds that a test decides."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def windows(clock: Clock, folder: Path | None = None) -> LatencyWindows:
    return LatencyWindows(latency_buckets(), folder, clock=clock)


def observe(kept: LatencyWindows, seconds: float, times: int = 1, source: str = "cache") -> None:
    for _ in range(times):
        kept.record(kept.series(ROUTE, source), seconds)


def counts(kept: LatencyWindows) -> dict[int, dict[str, int]]:
    """Requests by window and source."""
    return {minutes: {one.source: int(one.counts.sum()) for one in kept.read(minutes)} for minutes in WINDOWS_MIN}


@pytest.mark.parametrize("shared", [False, True])
def test_windows_forget_what_is_too_old(clock: Clock, tmp_path: Path, shared: bool) -> None:
    kept = windows(clock, tmp_path if shared else None)
    assert kept.read(60) == []
    observe(kept, 0.001, 3)
    clock.now += 120
    observe(kept, 0.002, 2)
    assert counts(kept) == {1: {"cache": 2}, 5: {"cache": 5}, 60: {"cache": 5}}
    clock.now += 600
    observe(kept, 0.1, source="live")
    assert counts(kept) == {1: {"live": 1}, 5: {"live": 1}, 60: {"cache": 5, "live": 1}}
    # The ring has been round once, and twice: nothing of the earlier hours shows.
    for _ in range(2):
        clock.now += 3600 + 10
        observe(kept, 0.003)
        assert counts(kept) == {1: {"cache": 1}, 5: {"cache": 1}, 60: {"cache": 1}}
    (only,) = kept.read(60)
    assert only.longest_s == pytest.approx(0.003)


def test_a_clock_that_is_set_back_loses_no_request(clock: Clock) -> None:
    kept = windows(clock)
    observe(kept, 0.001, 4)
    clock.now -= 1800
    observe(kept, 0.001, 3)
    assert counts(kept)[60] == {"cache": 3}
    clock.now += 1800
    assert counts(kept)[60] == {"cache": 7}


def test_quantiles_agree_with_the_observations(clock: Clock) -> None:
    kept = windows(clock)
    seconds = np.random.default_rng(0).lognormal(mean=-6, sigma=1, size=5000)
    for second in seconds:
        observe(kept, float(second))
    (found,) = latencies(kept.read(1), latency_buckets())
    for share, milliseconds in ((50, found.p50_ms), (90, found.p90_ms), (95, found.p95_ms), (99, found.p99_ms)):
        assert milliseconds == pytest.approx(1000 * np.percentile(seconds, share), rel=0.12)
    assert found.max_ms == pytest.approx(1000 * seconds.max(), abs=1e-3)
    assert found.count == 5000


def test_no_quantile_is_above_the_longest(clock: Clock) -> None:
    kept = windows(clock)
    observe(kept, 0.0123, 5)
    observe(kept, 90.0, source="live")
    cached, live = latencies(kept.read(1), latency_buckets())
    assert cached.p99_ms <= cached.max_ms == 12.3
    assert (live.count, live.max_ms) == (1, 90_000.0)


def test_more_kinds_of_request_than_there_is_room_for_are_counted_together(clock: Clock) -> None:
    kept = windows(clock)
    for number in range(400):
        kept.record(kept.series(f"/route-{number}", ""), 0.001)
    found = {one.route: int(one.counts.sum()) for one in kept.read(1)}
    assert len(found) == 256
    assert found["other"] == 400 - 255


def test_files_of_the_dead_go_when_they_are_too_old(clock: Clock, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.latency_windows import LatencyWindows\n"
        "from app.telemetry import latency_buckets\n"
        f"kept = LatencyWindows(latency_buckets(), Path(sys.argv[1]), clock=lambda: {clock.now})\n"
        f"kept.record(kept.series({ROUTE!r}, 'cache'), 0.001)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, cwd=ROOT, timeout=60)
    alive = windows(clock, tmp_path)
    observe(alive, 0.001)
    clock.now += 1800
    third = windows(clock, tmp_path)
    assert counts(third)[60] == {"cache": 2}
    clock.now += 7200
    fourth = windows(clock, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    # Those that live go on in theirs.
    observe(alive, 0.001)
    assert counts(fourth)[60] == {"cache": 1}


@pytest.mark.parametrize(
    ("cumulative", "share", "expected"),
    [([10, 10, 10], 0.5, 0.5), ([0, 10, 10], 0.5, 1.5), ([0, 0, 10], 0.5, 2.0), ([5, 10, 10], 0.5, 1.0)],
)
def test_quantile_by_hand(cumulative: list[float], share: float, expected: float) -> None:
    assert quantile([1.0, 2.0, math.inf], cumulative, share) == expected


# Two real workers


class Workers:
    """A server with two workers."""

    def __init__(self, client: httpx.Client, pid: int) -> None:
        self.client = client
        self.pid = pid

    def get(self, path: str) -> httpx.Response:
        """Ask over a new connection, so that both workers are asked sooner or later."""
        return httpx.get(f"{self.client.base_url}{path}", timeout=10).raise_for_status()

    def cached(self, minutes: int) -> int:
        """How many cached answers the last minutes had."""
        answer: dict[str, Any] = self.get(f"/latency?minutes={minutes}").json()
        assert answer["minutes"] == minutes
        found = [one["count"] for one in answer["latencies"] if (one["route"], one["source"]) == (ROUTE, "cache")]
        return sum(found)

    def metric(self, line: str) -> float:
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def pids(self) -> list[int]:
        """The processes that have a ring of their own open."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if any(".latency" in link for link in _open_files(int(pid)))]


def _open_files(pid: int) -> list[str]:
    try:
        return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except FileNotFoundError:
        return []


def until(holds: Any) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def two_workers(settings: Settings, clock_file: Path) -> Iterator[Workers]:
    port = free_port()
    command = [sys.executable, str(ROOT / "tests/app/steered_workers.py"), str(port), str(clock_file)]
    with serving(command, port, settings) as (client, pid):
        workers = Workers(client, pid)
        until(lambda: len(workers.pids()) == 2)
        yield workers


def test_two_workers_answer_for_both_and_for_one_that_was_killed(
    settings: Settings, cache: Cache, tmp_path: Path
) -> None:
    clock_file = tmp_path / "clock"
    clock_file.write_text(str(NOON))
    cache.put_entry("ann", [9, 8, 7])
    with two_workers(settings, clock_file) as workers:
        for _ in range(40):
            workers.get("/recommend/ann?n=3")
        until(lambda: workers.cached(1) == 40)
        # Whoever is asked says the same.
        assert {workers.cached(minutes) for minutes in (1, 5, 60) for _ in range(6)} == {40}
        until(lambda: workers.metric("tessera_workers") == 2)
        assert workers.metric('tessera_served_model_info{model_version="light-1"}') == 2
        memory = workers.metric("tessera_process_resident_bytes")

        first, second = before = workers.pids()
        os.kill(first, signal.SIGKILL)
        until(lambda: len(workers.pids()) == 2 and first not in workers.pids())
        assert second in workers.pids()
        # What it had counted stays; what it was does not, and another takes its place.
        until(lambda: workers.metric("tessera_workers") == 2)
        assert workers.cached(60) == 40
        counted = f'tessera_requests_total{{method="GET",route="{ROUTE}",source="cache",status="200"}}'
        assert workers.metric(counted) == 40
        until(lambda: 0.5 * memory < workers.metric("tessera_process_resident_bytes") < 1.5 * memory)
        assert len(before) == 2

        clock_file.write_text(str(NOON + 200))
        for _ in range(5):
            workers.get("/recommend/ann?n=3")
        until(lambda: workers.cached(1) == 5)
        assert (workers.cached(5), workers.cached(60)) == (45, 45)
        clock_file.write_text(str(NOON + 3700))
        until(lambda: workers.cached(5) == 0)
        assert workers.cached(60) == 5
