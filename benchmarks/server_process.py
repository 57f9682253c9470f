"""Servers under measurement: started as a user would, waited for, looked at, ended."""

import contextlib
import os
import signal
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

    def processor_s(self) -> float:
        """Processor time it has taken so far, its threads included, of its children none."""
        # Fields 14 and 15; the name before them may hold anything.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Memory it holds now, shared libraries included."""
        return _resident_mib(self.pid)

    def workers_mib(self) -> list[float]:
        """Memory each worker process under it holds now, shared libraries included; empty where it works itself."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        spawned = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return [_resident_mib(int(pid)) for pid in spawned]

    def maps(self, library: str) -> bool:
        """Whether a file whose name contains `library` is in its address space."""
        files = {line.rpartition("/")[2] for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines()}
        return any(library in name for name in files)


@contextlib.contextmanager
def started(
    module: Sequence[str], path: str, environment: Mapping[str, str], *, log: Path | None = None
) -> Iterator[ServerProcess]:
    """Run `python -m MODULE ... PORT`, wait for a 200 on `path`, end it afterwards.

    Args:
        module: the module and its arguments; the port is appended.
        path: what to ask for.
        environment: variables on top of ours.
        log: where its standard error goes; left out, a pipe that nobody reads before it fails: not for one that says
            much.
    """
    port = _free_port()
    command = [sys.executable, "-m", *module, str(port)]
    begin = time.perf_counter()
    with contextlib.nullcontext(subprocess.PIPE) if log is None else log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        while not _get(port, path).startswith(b"HTTP/1.1 200"):
            if process.poll() is not None or time.perf_counter() - begin > _START_TIMEOUT_S:
                # Its children too: they hold the pipe that is read next.
                os.killpg(process.pid, signal.SIGKILL)
                said = (process.communicate()[1] or b"" if log is None else log.read_bytes()).decode(errors="replace")
                raise RuntimeError(f"{' '.join(command)} did not answer:\n{said}")
            time.sleep(_POLL_S)
        yield ServerProcess(process, port, time.perf_counter() - begin)
    finally:
        process.terminate()
        process.communicate(timeout=_STOP_TIMEOUT_S)


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def _get(port: int, path: str) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
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
