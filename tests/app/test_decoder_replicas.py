"""Several decoder processes behind one address: real processes, TCP and Unix sockets."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from app.decoder.replicas import cores_of, environment_of
from app.decoder.settings import DecoderSettings
from app.live_decoding import LiveDecoding, LiveRequest
from tests.app.running_server import free_port
from tests.tiny_bundle import build_tiny_bundle

START_TIMEOUT_S = 120
VLLM_TIMEOUT_S = 300
BODY = {"version": "tiny-1", "history": [1, 2, 3], "n": 5, "beam_width": 10, "deadline_ms": 20_000}


@dataclass
class Replicated:
    """`tessera decoder --replicas N`."""

    address: str
    parent: psutil.Process

    def client(self) -> httpx.Client:
        path = self.address.removeprefix("unix://") if self.address.startswith("unix://") else None
        base = "http://decoder" if path else self.address
        return httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url=base, timeout=30)

    def get(self, path: str) -> httpx.Response:
        """On a connection of its own, which any replica may get."""
        with self.client() as client:
            return client.get(path)

    def ask(self, **changes: Any) -> httpx.Response:
        with self.client() as client:
            return client.post("/decode", json=BODY | changes)

    def encode(self) -> httpx.Response:
        with self.client() as client:
            return client.post(
                "/encode", json={"version": "tiny-1", "documents": ["a"], "deadline_ms": 60_000}, timeout=60
            )

    def ready(self) -> bool:
        return self.get("/health/ready").status_code == 200

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def replicas(self) -> dict[int, psutil.Process]:
        """Those that run, by their number."""
        found = {}
        for process in self.parent.children():
            words = command(process)
            if "app.decoder.replica" in words:
                found[int(words[words.index("app.decoder.replica") + 2])] = process
        return found


def command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(holds: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait. A connection that was dealt to a replica in its last moment goes with it, and is no answer yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(httpx.TransportError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def replicated(
    store: Path, address: str, *, engine: str = "torch", count: int = 2, **more: str
) -> Iterator[Replicated]:
    environment = {
        **os.environ,
        "TESSERA_STORE": str(store),
        "TESSERA_BEAM_WIDTH": "10",
        "TESSERA_DECODER_ACTIVE_POLL_MS": "100",
        "TESSERA_DECODER_THREADS": "1",
        **more,
    }
    arguments = ["decoder", "--address", address, "--engine", engine, "--replicas", "2"]
    parent = psutil.Popen([sys.executable, "-m", "tessera", *arguments], env=environment)
    running = Replicated(address, parent)
    try:
        until(lambda: answers(running))
        yield running
    finally:
        if lives(parent):
            parent.terminate()
        parent.wait(60)


def answers(decoder: Replicated) -> bool:
    assert lives(decoder.parent)
    try:
        return decoder.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    build_tiny_bundle(store, quantizer=True)
    return store


@pytest.fixture(scope="module", params=["unix", "tcp"])
def decoder(
    request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicated]:
    folder = tmp_path_factory.mktemp("socket")
    address = f"unix://{folder}/decoder.sock" if request.param == "unix" else f"http://127.0.0.1:{free_port()}"
    with replicated(store, address) as decoder:
        until(lambda: decoder.metric("tessera_decoder_ready") == 2)
        yield decoder


def test_the_api_spreads_concurrent_decodes_over_the_replicas(decoder: Replicated) -> None:
    def sent() -> list[float]:
        return [decoder.metric(f'tessera_decoder_replica_requests_total{{replica="{number}"}}') for number in (0, 1)]

    async def decode() -> None:
        live = LiveDecoding(decoder.address)
        for _ in range(5):
            requests = [replace(wanted, history=np.array([number], dtype=np.int32)) for number in range(8)]
            found = await asyncio.gather(*(live.decode(request) for request in requests))
            assert [len(answer.items) for answer in found] == [5] * 8
        await live.aclose()

    wanted = LiveRequest(
        version="tiny-1",
        history=np.array([1], dtype=np.int32),
        n=5,
        beam_width=10,
        excluded=np.array([], dtype=np.int32),
        eligible=None,
        deadline_ms=20_000,
    )
    answered = decoder.metric('tessera_decoder_requests_total{status="200"}')
    before = sent()
    asyncio.run(decode())
    assert decoder.metric('tessera_decoder_requests_total{status="200"}') == answered + 40, "all replicas count as one"
    shares = [after - first for after, first in zip(sent(), before, strict=True)]
    assert min(shares) >= 10
    assert decoder.metric("tessera_decoder_loaded_versions") == 2, "a copy each"
    assert decoder.metric("tessera_decoder_queue_depth") == 0


def test_a_connection_is_closed_after_32_answers_so_that_its_client_comes_to_another_replica(
    decoder: Replicated,
) -> None:
    for _ in range(2):
        decoder.get("/health/live")
    with decoder.client() as client:
        closing = [client.get("/health/live").headers.get("connection") == "close" for _ in range(100)]
    assert 2 <= sum(closing) <= 4


def test_a_killed_replica_is_replaced_and_the_other_goes_on_meanwhile(decoder: Replicated) -> None:
    before = decoder.replicas()
    restarts = decoder.metric("tessera_decoder_replica_restarts_total")
    counted = decoder.metric('tessera_decoder_requests_total{status="200"}')
    before[0].kill()
    until(lambda: not lives(before[0]), 10)
    until(lambda: decoder.metric("tessera_decoder_ready") == 1, 10)
    asked = 0
    deadline = time.monotonic() + START_TIMEOUT_S
    while decoder.metric("tessera_decoder_ready") < 2:
        assert decoder.ask().status_code == 200
        assert decoder.ready()
        asked += 1
        assert time.monotonic() < deadline
    after = decoder.replicas()
    assert asked > 2
    assert after[1].pid == before[1].pid
    assert after[0].pid != before[0].pid
    assert decoder.metric("tessera_decoder_replica_restarts_total") == restarts + 1
    assert decoder.metric('tessera_decoder_requests_total{status="200"}') == counted + asked, "what was counted stays"


def test_a_replica_encodes_the_texts_of_items(decoder: Replicated) -> None:
    until(decoder.ready)
    answer = decoder.encode()
    assert (answer.status_code, answer.json()["version"], answer.json()["size"]) == (200, "tiny-1", 384)


def test_with_no_replica_left_it_answers_503_at_once_and_recovers(decoder: Replicated) -> None:
    until(lambda: decoder.metric("tessera_decoder_ready") == 2)
    killed = decoder.replicas()
    for process in killed.values():
        process.kill()
    until(lambda: not any(lives(process) for process in killed.values()), 10)
    begin = time.monotonic()
    until(lambda: decoder.get("/health/ready").status_code == 503, 5)
    refused = decoder.ask()
    assert time.monotonic() - begin < 3
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tessera:problem:no-replica-ready")
    assert decoder.encode().status_code == 503
    assert decoder.get("/health/live").status_code == 200
    assert "tessera_decoder_requests_total" in decoder.get("/metrics").text
    until(decoder.ready)
    assert decoder.ask().status_code == 200


def test_readiness_says_why_there_is_none(tmp_path: Path) -> None:
    broken = build_tiny_bundle(tmp_path / "store")
    weights = broken.llm_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"broken")
    address = f"unix://{tmp_path}/decoder.sock"
    with replicated(tmp_path / "store", address, TESSERA_DECODER_RETRY_UNUSABLE_S="0") as decoder:
        assert decoder.get("/health/ready").status_code == 503
        until(lambda: any("model.safetensors" in line for line in decoder.get("/health/ready").json()["troubles"]))
        assert "model.safetensors" in decoder.ask().json()["detail"]
        weights.write_bytes(whole)
        until(decoder.ready)
        assert decoder.ask().status_code == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_replicas_end_with_their_parent(store: Path, tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "decoder.sock"
    with replicated(store, f"unix://{path}") as decoder:
        until(lambda: len(decoder.replicas()) == 2)
        # One signal finds them starting, the next one serving.
        if how is not signal.SIGINT:
            until(decoder.ready)
        started = list(decoder.replicas().values())
        decoder.parent.send_signal(how)
        assert decoder.parent.wait(30) == (-signal.SIGKILL if how is signal.SIGKILL else 0)
        until(lambda: not any(lives(process) for process in started), 30)
        assert path.exists() == (how is signal.SIGKILL)


@pytest.mark.parametrize("value", ["0", "many", "65"])
def test_a_number_of_replicas_that_makes_no_sense_is_refused(value: str) -> None:
    environment = {**os.environ, "TESSERA_DECODER_REPLICAS": value}
    words = [sys.executable, "-m", "tessera", "decoder"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "TESSERA_DECODER_REPLICAS: " in done.stderr


def test_the_parent_loads_no_model_library() -> None:
    command = "import sys, app.decoder.process; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "set()"


def test_gpus_that_are_named_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu(number: int) -> str | None:
        return environment_of(number, DecoderSettings(), "metrics").get("CUDA_VISIBLE_DEVICES")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert [gpu(number) for number in range(3)] == ["0", "2", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert gpu(1) == "3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu(1) is None


def test_cores_are_dealt_out() -> None:
    here = sorted(os.sched_getaffinity(0))
    assert cores_of(0, 1) == here
    for replicas in (2, 3, 2 * len(here)):
        dealt = [cores_of(number, replicas) for number in range(replicas)]
        assert {core for cores in dealt for core in cores} == set(here)
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.vllm
def test_a_replica_whose_engine_dies_gets_no_requests_until_it_is_back(store: Path, tmp_path: Path) -> None:
    with replicated(store, f"unix://{tmp_path}/decoder.sock", engine="vllm") as decoder:
        until(lambda: decoder.metric("tessera_decoder_ready") == 2, VLLM_TIMEOUT_S)
        with decoder.client() as client:
            assert client.get("/health/ready").status_code == 200
            for child in decoder.replicas()[0].children(recursive=True):
                child.kill()
            until(lambda: decoder.metric("tessera_decoder_ready") == 1, 10)
            while decoder.metric("tessera_decoder_ready") == 1:
                assert decoder.ask().status_code == 200
                # On a connection that may have been the dead one's.
                assert client.get("/health/ready").status_code == 200
                # They share the cores: without a pause the other one would hardly get on with its start.
                time.sleep(0.5)
        assert decoder.metric("tessera_decoder_ready") == 2
        assert decoder.metric('tessera_decoder_engine_restarts_total{outcome="ok"}') == 1
        assert decoder.metric("tessera_decoder_replica_restarts_total") == 0
