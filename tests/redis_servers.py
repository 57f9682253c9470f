"""Redis servers of a test's own: one process, or a cluster of six."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from app.embedded_redis import server_binary

NODE_TIMEOUT_S = 1.0
"""How long a node of a cluster may be silent before its replica takes over."""


def free_port() -> int:
    """A port that nothing listens on, low enough for a cluster's nodes, which talk on the one 10000 higher."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= 55535:
            return port


def wait_until(holds: Callable[[], object], within_s: float = 10.0) -> None:
    """Ask until it holds; a server that does not answer is asked again."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(redis.RedisError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def launch(binary: Path, folder: Path, port: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a server; it may take a moment until it answers."""
    folder.mkdir(exist_ok=True)
    command = [str(binary), *arguments, "--port", str(port), "--dir", str(folder), "--save", ""]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def end(*processes: subprocess.Popen[bytes]) -> None:
    """End servers."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


@contextmanager
def server(folder: Path, *arguments: str) -> Iterator[int]:
    """A Redis process on a free port."""
    port = free_port()
    process = launch(server_binary(), folder, port, *arguments)
    try:
        with redis.Redis(port=port) as client:
            wait_until(client.ping)
        yield port
    finally:
        end(process)


@dataclass
class Cluster:
    """Three masters, each with a replica.

    Attributes:
        nodes: the process behind each port.
    """

    nodes: dict[int, subprocess.Popen[bytes]]

    @property
    def url(self) -> str:
        """Of a node that is alive."""
        return f"redis+cluster://127.0.0.1:{self._alive()[0]}"

    def masters(self) -> list[int]:
        """Ports of the masters that are alive."""
        return [port for port in self._alive() if redis.Redis(port=port).role()[0] == b"master"]

    def kill_a_master(self) -> int:
        """Kill one, as a machine that fails would; returns its port."""
        port = self.masters()[-1]
        self.nodes[port].kill()
        self.nodes[port].wait()
        return port

    def wait_until_whole(self) -> None:
        """Every slot has a master that is alive, and every node knows it."""
        for port in self._alive():
            client = redis.Redis(port=port)
            wait_until(lambda client=client: client.cluster("info")["cluster_state"] == "ok")

    def _alive(self) -> list[int]:
        return [port for port, process in self.nodes.items() if process.poll() is None]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of six nodes, as `redis-cli --cluster create` makes it."""
    folder.mkdir(exist_ok=True)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(round(1000 * NODE_TIMEOUT_S)))
    ports: set[int] = set()
    while len(ports) < 6:
        ports.add(free_port())
    found = Cluster({port: launch(server_binary(), folder / str(port), port, *options) for port in sorted(ports)})
    try:
        for port in ports:
            wait_until(redis.Redis(port=port).ping)
        addresses = [f"127.0.0.1:{port}" for port in ports]
        create = [str(server_binary().with_name("redis-cli")), "--cluster", "create", *addresses]
        subprocess.run([*create, "--cluster-replicas", "1", "--cluster-yes"], check=True, capture_output=True)
        found.wait_until_whole()
        wait_until(lambda: all(_replicates(port) for port in set(ports) - set(found.masters())))
        yield found
    finally:
        end(*found.nodes.values())


def _replicates(port: int) -> bool:
    return redis.Redis(port=port).info("replication")["master_link_status"] == "up"
