"""The real server in processes of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

from app.settings import Settings

ROOT = Path(__file__).parents[2]

_SERVE = "import sys; from app.main import serve; from app.settings import Settings\n" + (
    "serve(Settings(), '127.0.0.1', int(sys.argv[1]), int(sys.argv[2]))"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(settings: Settings, workers: int) -> Iterator[httpx.Client]:
    """Serve until the block ends; every line that the server has said is JSON."""
    port = free_port()
    with serving([sys.executable, "-c", _SERVE, str(port), str(workers)], port, settings) as (client, _):
        yield client


@contextmanager
def serving(command: Sequence[str], port: int, settings: Settings) -> Iterator[tuple[httpx.Client, int]]:
    """Run a command that serves at this port until the block ends, and tell its process id."""
    environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
    # A file takes whatever is said; a pipe that nobody reads meanwhile would stop the server once it is full.
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(command, env=environment, stderr=said, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            deadline = time.monotonic() + 30
            while True:
                try:
                    client.get("/health/ready").raise_for_status()
                    break
                except httpx.TransportError:
                    assert process.poll() is None, _text_of(said)
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield client, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        with said:
            for line in _text_of(said).splitlines():
                json.loads(line)


def _text_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
