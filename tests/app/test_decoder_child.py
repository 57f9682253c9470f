"""The decoder as a child process: started, restarted, and gone with its parent."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from app.circuit_breaker import CircuitBreaker
from app.decoder.child import DecoderChild
from app.decoder.settings import DecoderSettings
from app.live_decoding import LiveDecoding, LiveDecodingUnavailable, LiveRequest
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.anyio

START_TIMEOUT_S = 90
REQUEST = LiveRequest(
    version="tiny-1",
    history=np.array([1, 2, 3], dtype=np.int32),
    n=5,
    beam_width=10,
    excluded=np.array([], dtype=np.int32),
    eligible=None,
    deadline_ms=20_000,
)


@pytest.fixture
def settings(tmp_path: Path) -> DecoderSettings:
    build_tiny_bundle(tmp_path / "store")
    return DecoderSettings(store=tmp_path / "store", engine="torch", beam_width=10)


@pytest.fixture
def child(settings: DecoderSettings, tmp_path: Path) -> Iterator[DecoderChild]:
    with DecoderChild(settings, tmp_path / "home", first_pause_s=0.1) as child:
        yield child


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.05)


async def until_ready(live: LiveDecoding) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while not await live.ready():
            await asyncio.sleep(0.1)


async def test_a_killed_decoder_is_restarted_and_used_again(child: DecoderChild, tmp_path: Path) -> None:
    live = LiveDecoding(child.address, breaker=CircuitBreaker("decoder", failures_to_open=2, first_pause_s=0.05))
    await until_ready(live)
    assert len((await live.decode(REQUEST)).items) == 5
    path = Path(child.address.removeprefix("unix://"))
    assert path.parent == tmp_path / "home"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: not lives(first))
    reasons = set()
    for _ in range(4):
        with pytest.raises(LiveDecodingUnavailable) as caught:
            await live.decode(REQUEST)
        reasons.add(caught.value.reason)
    assert reasons == {"failed", "breaker_open"}

    await until_ready(live)
    await asyncio.sleep(6 * 0.05)
    async with asyncio.timeout(10):
        while live.breaker_open:
            try:
                await live.decode(REQUEST)
            except LiveDecodingUnavailable:
                await asyncio.sleep(0.1)
    assert child.pid not in (None, first)
    await live.aclose()

    second = child.pid
    assert second is not None
    child.stop()
    child.stop()
    assert not lives(second)
    assert child.pid is None
    assert not path.exists()


async def test_starting_waits_for_nothing_and_stopping_ends_a_start_half_way(
    settings: DecoderSettings, tmp_path: Path
) -> None:
    begin = time.monotonic()
    child = DecoderChild(settings, tmp_path / "home")
    child.start()
    assert time.monotonic() - begin < 0.5
    await until(lambda: child.pid is not None)
    process = child.pid
    assert process is not None
    child.stop()
    assert not lives(process)


async def test_a_child_may_have_replicas_and_they_end_with_it(settings: DecoderSettings, tmp_path: Path) -> None:
    replicated = settings.model_copy(update={"replicas": 2, "threads": 1})
    with DecoderChild(replicated, tmp_path / "home") as child:
        live = LiveDecoding(child.address)
        await until_ready(live)
        assert len((await live.decode(REQUEST)).items) == 5
        await live.aclose()
        assert child.pid is not None
        started = [process.pid for process in psutil.Process(child.pid).children()]
        assert len(started) == 2
    assert not any(lives(process) for process in started)


_PARENT = """
import sys, time
from pathlib import Path
from app.decoder.child import DecoderChild
from app.decoder.settings import DecoderSettings

child = DecoderChild(DecoderSettings(store=Path(sys.argv[1]), engine="torch"), Path(sys.argv[2]))
child.start()
while child.pid is None:
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(600)
"""


async def test_it_ends_when_its_parent_is_killed(settings: DecoderSettings, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PARENT, str(settings.store), str(tmp_path / "home")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        process = int(await asyncio.to_thread(parent.stdout.readline))
        assert lives(process)
    finally:
        parent.kill()
        parent.wait(10)
    await until(lambda: not lives(process))
    parent.stdout.close()


async def test_a_second_decoder_on_the_same_socket_says_so(settings: DecoderSettings, tmp_path: Path) -> None:
    path = tmp_path / "decoder.sock"
    environment = {**os.environ, **settings.to_environment(), "TESSERA_DECODER_LISTEN": f"unix://{path}"}
    command = [sys.executable, "-m", "app.decoder.process"]
    first = subprocess.Popen(command, env=environment)
    try:
        await until(path.is_socket, START_TIMEOUT_S)
        second = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=START_TIMEOUT_S
        )
        assert second.returncode == 1
        assert "another decoder listens there" in second.stderr
        assert path.is_socket(), "the first one's socket is left alone"
    finally:
        first.terminate()
        assert first.wait(30) == 0
    assert not path.exists()


def test_a_home_too_deep_for_a_socket_is_no_obstacle(settings: DecoderSettings, tmp_path: Path) -> None:
    child = DecoderChild(settings, tmp_path / ("deep" * 20) / ("deeper" * 20))
    path = Path(child.address.removeprefix("unix://"))
    assert len(os.fsencode(path)) < 100
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    child.stop()
    assert not path.parent.exists()
