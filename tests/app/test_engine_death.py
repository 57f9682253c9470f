"""The engine's process is killed under a running decoder: real vLLM, a real process, real HTTP."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from app.decoder.backoff import Backoff
from app.decoder.settings import DecoderSettings
from model_store.bundle import Bundle
from tests.tiny_bundle import build_tiny_bundle

LOAD_TIMEOUT_S = 240


@dataclass
class Decoder:
    """A decoder process."""

    process: subprocess.Popen[bytes]
    client: httpx.Client

    def ask(self, deadline_ms: int = 30_000, **changes: Any) -> httpx.Response:
        body = {"version": "tiny-1", "history": [1, 2, 3], "n": 5, "beam_width": 10, "deadline_ms": deadline_ms}
        return self.client.post("/decode", json=body | changes)

    def readiness(self) -> httpx.Response:
        return self.client.get("/health/ready")

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def kill_engine(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()


@contextmanager
def decoder_process(settings: DecoderSettings) -> Iterator[Decoder]:
    path = settings.socket_path
    environment = {**os.environ, **settings.to_environment()}
    process = subprocess.Popen([sys.executable, "-m", "app.decoder.process"], env=environment)
    try:
        until(lambda: path is not None and path.is_socket(), 60)
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://decoder", timeout=60) as client:
            yield Decoder(process, client)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def until(holds: Callable[[], bool], timeout_s: float = LOAD_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_tiny_bundle(tmp_path / "store")


@pytest.fixture
def decoder(bundle: Bundle, tmp_path: Path) -> Iterator[Decoder]:
    settings = DecoderSettings(
        store=tmp_path / "store",
        listen=f"unix://{tmp_path}/decoder.sock",
        engine="vllm",
        beam_width=10,
        batch=2,
        active_poll_ms=100,
    )
    with decoder_process(settings) as decoder:
        until(lambda: decoder.readiness().status_code == 200)
        yield decoder


@pytest.mark.vllm
def test_a_killed_engine_is_started_again_and_nobody_waits_meanwhile(
    decoder: Decoder, bundle: Bundle, tmp_path: Path
) -> None:
    before = decoder.ask().json()["items"]
    assert decoder.metric('tessera_decoder_engine_restarts_total{outcome="ok"}') == 0

    # First with nobody asking: it is noticed all the same.
    decoder.kill_engine()
    until(lambda: decoder.readiness().status_code == 503, 10)
    body = decoder.readiness().json()
    assert body["status"] == "not_ready"
    assert "tiny-1: its engine's process ended; it is being started again" in body["troubles"]
    begin = time.monotonic()
    refused = decoder.ask()
    assert time.monotonic() - begin < 1
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tessera:problem:engine-gone")
    assert decoder.client.get("/health/live").status_code == 200
    until(lambda: decoder.readiness().status_code == 200)
    assert decoder.ask().json()["items"] == before
    assert decoder.metric('tessera_decoder_errors_total{kind="engine_died"}') == 1
    assert decoder.metric('tessera_decoder_engine_restarts_total{outcome="ok"}') == 1

    # Then for good, until somebody repairs the files.
    weights = bundle.llm_path / "model.safetensors"
    shutil.copy(weights, tmp_path / "weights")
    weights.write_bytes(b"broken")
    decoder.kill_engine()
    # Whoever comes before the death is noticed meets the dead engine, and is answered no worse.
    assert decoder.ask().status_code == 503
    until(lambda: decoder.metric('tessera_decoder_engine_restarts_total{outcome="failed"}') >= 2)
    body = decoder.readiness().json()
    assert any("could not be started again" in line and "model.safetensors" in line for line in body["troubles"])
    begin = time.monotonic()
    assert decoder.ask().status_code == 503
    assert time.monotonic() - begin < 1
    shutil.copy(tmp_path / "weights", weights)
    until(lambda: decoder.readiness().status_code == 200)
    assert decoder.ask().json()["items"] == before
    assert decoder.readiness().json()["troubles"] == []


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_long_life() -> None:
    backoff = Backoff(1, 10, chance=lambda: 0)
    assert [backoff.pause_s() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.pause_s(lived_s=9) == 10, "that was no long life"
    assert backoff.pause_s(lived_s=11) == 1
    at_once = Backoff(1, 10, at_once=True, chance=lambda: 0)
    assert [at_once.pause_s() for _ in range(3)] == [0, 1, 2]
    assert all(at_once.pause_s() <= 10 for _ in range(2000))


def test_pauses_are_spread() -> None:
    pauses = [Backoff(1, 10).pause_s() for _ in range(50)]
    assert len(set(pauses)) > 40
    assert 0.75 <= min(pauses) <= max(pauses) <= 1
