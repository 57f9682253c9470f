"""Servers under measurement: started as a user would, waited for, looked at, ended."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

_POLL_S = 0.002
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


class ServerProcess:
    """A running HTTP server.

    Attributes:
        port: where it listens on loopback.
        pid: its process.
        ready_s: from the start of the process to its first 200.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, ready_s: float) -> None:
        self._process = process
        self.port = port
        self.pid = process.pid
        self.ready_s = ready_s

    def get(self, path: str) -> bytes:
        """One request on a new connection: the whole answer, empty where nobody listens."""
        return _get(self.port, path)

    def resident_mib(self) -> float:
        """Memory it holds now, shared libraries included."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"process {self.pid} has no VmRSS")

    def maps(self, library: str) -> bool:
        """Whether a file whose name contains `library` is in its address space."""
        files = {line.rpartition("/")[2] for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines()}
        return any(library in name for name in files)


@contextlib.contextmanager
def started(module: Sequence[str], path: str, environment: Mapping[str, str]) -> Iterator[ServerProcess]:
    """Run `python -m MODULE ... PORT`, wait for a 200 on `path`, end it afterwards.

    Args:
        module: the module and its arguments; the port is appended.
        path: what to ask for.
        environment: variables on top of ours.
    """
    port = _free_port()
    command = [sys.executable, "-m", *module, str(port)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TESSERA_JOBS": "none", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while not _get(port, path).startswith(b"HTTP/1.1 200"):
            if process.poll() is not None or time.perf_counter() - begin > _START_TIMEOUT_S:
                process.kill()
                said = process.communicate()[1].decode(errors="replace")
                raise RuntimeError(f"{' '.join(command)} did not answer:\n{said}")
            time.sleep(_POLL_S)
        yield ServerProcess(process, port, time.perf_counter() - begin)
    finally:
        process.terminate()
        process.communicate(timeout=_STOP_TIMEOUT_S)


def _get(port: int, path: str) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
            return answer
    except OSError:
        return b""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
