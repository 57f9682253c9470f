"""Tracing off, tracing asked for in vain, and a collector that is away."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings
from tests.app.conftest import Cache, running
from tests.app.running_server import ROOT
from tests.app.trace_collector import trace_collector

_START = """
import asyncio, sys
if sys.argv[1] == "missing":
    sys.modules["opentelemetry"] = None
    sys.modules["opentelemetry.sdk.trace"] = None
from app.main import create_app, serve
from app.settings import Settings
from model_store.errors import TesseraError
try:
    create_app(Settings())
except TesseraError as error:
    sys.exit(str(error))
# redis-py loads the API for metrics of its own where it is installed.
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))))
"""


def start(settings: Settings, how: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", _START, how], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_without_an_endpoint_nothing_of_it_is_loaded(settings: Settings) -> None:
    done = start(settings, "installed")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_an_endpoint_without_the_packages_is_refused_at_the_start(settings: Settings) -> None:
    traced = settings.model_copy(update={"traces_endpoint": "http://127.0.0.1:9"})
    done = start(traced, "missing")
    assert done.returncode == 1
    assert "TESSERA_TRACES_ENDPOINT is set" in done.stderr
    assert "tessera[tracing]" in done.stderr
    assert start(traced, "installed").returncode == 0


@pytest.mark.parametrize("wrong", ["localhost:4318", "grpc://host:4317"])
def test_an_endpoint_that_is_no_http_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="of a collector"):
        Settings(traces_endpoint=wrong)


@pytest.mark.anyio
async def test_share_is_held_and_callers_are_followed(settings: Settings, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    with trace_collector() as collector:
        none = settings.model_copy(update={"traces_endpoint": collector.endpoint, "traces_share": 0.0})
        async with running(none) as app:
            for flag in ("00", "01"):
                headers = {"traceparent": f"00-{'a' * 30}{flag}-{'b' * 16}-{flag}"}
                await app.client.get("/recommend/ann?n=3", headers=headers)
            await app.client.get("/recommend/ann")
            await app.client.get("/recommend/ann", headers={"traceparent": "nonsense"})
        assert {one.trace_id for one in collector.spans} == {"a" * 30 + "01"}
        assert {one.name for one in collector.spans} == {"GET /recommend/{user_id}", "redis", "cache"}
        half = none.model_copy(update={"traces_share": 0.5})
        collector.spans.clear()
        async with running(half) as app:
            for _ in range(200):
                await app.client.get("/models")
                await app.client.get("/health/live")
        assert {one.name for one in collector.spans} == {"GET /models"}
        assert 60 < len(collector.spans) < 140


@pytest.mark.anyio
@pytest.mark.parametrize("silent", [False, True])
async def test_a_collector_that_is_away_or_silent_costs_requests_nothing(
    settings: Settings, cache: Cache, silent: bool, tmp_path: Path
) -> None:
    cache.put_entry("ann", [9, 8, 7])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with running(settings.model_copy(update={"traces_endpoint": endpoint})) as app:
            slowest = 0.0
            # More spans than wait, for longer than until the first is sent.
            for round_ in range(1000):
                begin = time.perf_counter()
                answer = await app.client.get("/recommend/ann?n=3")
                slowest = max(slowest, time.perf_counter() - begin)
                assert answer.json()["source"] == "cache"
                if round_ % 100 == 0:
                    await asyncio.sleep(0.15)
            ending = time.perf_counter()
        # A request that waited for the exporter would wait for its timeout of five seconds, the end for many of them.
        assert slowest < 4
        assert time.perf_counter() - ending < 15
