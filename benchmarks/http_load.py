"""A small HTTP/1.1 load generator in a process of its own: raw sockets, one request in flight per connection.

    python -m benchmarks.http_load PORT CONNECTIONS SECONDS USERS MARKER [--bodies FILE] [--rate PER_SECOND]

Asks for `/recommend/user-0` to `/recommend/user-{USERS-1}` in turn over keep-alive connections, or posts the first
USERS lines of FILE to `/recommend`, and prints one JSON object: requests answered, how many of the answers
lacked MARKER, latencies in microseconds (p50, p95, p99), seconds, and the share of one core it used itself. An answer
that is no 200 ends it with an error.

Plain sockets and a selector, because an HTTP library in Python costs more than the server it would measure. Without a
rate it is a closed loop: with C connections the server always has at most C requests to work on. With one, requests are
due at even intervals whatever the server does, and a latency counts from when its request was due: one that waits for a
free connection waits. Connections stay open, and what is sent while they are being opened is not counted: the first
quarter of a second.
"""

import argparse
import json
import select
import selectors
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server_process import ROOT

_RECEIVE_BYTES = 1 << 16
OPENING_S = 0.25


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the generator saw.

    Attributes:
        requests: answers received.
        unexpected: those among them without the marker: a wrong answer must not pass for a fast one.
        seconds: from the first counted request to the last answer.
        p50_us, p95_us, p99_us: time from sending a request, or from when it was due, to having its whole answer.
        busy: share of one core the generator used; near 1, it and not the server is measured.
    """

    requests: int
    unexpected: int
    seconds: float
    p50_us: float
    p95_us: float
    p99_us: float
    busy: float

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def load(
    port: int,
    *,
    connections: int,
    seconds: float,
    users: int,
    marker: str,
    bodies: Path | None = None,
    rate: float | None = None,
) -> Load:
    """Run the generator in its own process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.http_load",
        str(port),
        str(connections),
        str(seconds),
        str(users),
        marker,
    ]
    if bodies is not None:
        command += ["--bodies", str(bodies)]
    if rate is not None:
        command += ["--rate", str(rate)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()}")
    return Load(**json.loads(done.stdout))


def _generate(port: int, connections: int, duration_s: float, requests: Sequence[bytes], marker: bytes) -> Load:
    users = len(requests)
    clock = time.perf_counter_ns
    took_ns = array("q")
    sent = unexpected = 0
    with selectors.DefaultSelector() as selector:
        pending: dict[socket.socket, int] = {}
        for _ in range(connections):
            connection = _connect(port)
            selector.register(connection, selectors.EVENT_READ)
            pending[connection] = clock()
            connection.sendall(requests[sent % users])
            sent += 1
        begin, busy_begin = clock() + int(OPENING_S * 1e9), 0.0
        end = begin + int(duration_s * 1e9)
        while pending:
            for key, _ in selector.select():
                connection = key.fileobj
                expected = _receive(connection, marker)
                now = clock()
                if pending[connection] >= begin:
                    # From here on, this process's own time counts too.
                    busy_begin = busy_begin or time.process_time()
                    took_ns.append(now - pending[connection])
                    unexpected += not expected
                if now >= end:
                    del pending[connection]
                    selector.unregister(connection)
                    connection.close()
                    continue
                pending[connection] = clock()
                connection.sendall(requests[sent % users])
                sent += 1
        seconds = (clock() - begin) / 1e9
        busy = (time.process_time() - busy_begin) / seconds
    return _summary(took_ns, unexpected, seconds, busy)


def _generate_at(
    port: int, connections: int, duration_s: float, requests: Sequence[bytes], marker: bytes, rate: float
) -> Load:
    users = len(requests)
    clock = time.perf_counter_ns
    gap_ns = 1e9 / rate
    first_counted, last = int(rate * OPENING_S), int(rate * (OPENING_S + duration_s))
    took_ns = array("q")
    sent = unexpected = 0
    idle = [_connect(port) for _ in range(connections)]
    due: dict[socket.socket, tuple[int, int]] = {}
    begin, busy_begin = clock(), time.process_time()
    while sent < last or due:
        now = clock()
        while idle and sent < last and (at := begin + int(sent * gap_ns)) <= now:
            connection = idle.pop()
            due[connection] = (sent, at)
            connection.sendall(requests[sent % users])
            sent += 1
        # Not epoll: it knows no less than milliseconds.
        wait_s = max(begin + sent * gap_ns - clock(), 0) / 1e9 if idle and sent < last else None
        for connection in select.select(list(due), (), (), wait_s)[0]:
            expected = _receive(connection, marker)
            number, at = due.pop(connection)
            idle.append(connection)
            if number >= first_counted:
                took_ns.append(clock() - at)
                unexpected += not expected
    whole_s = (clock() - begin) / 1e9
    for connection in idle:
        connection.close()
    return _summary(took_ns, unexpected, whole_s - OPENING_S, (time.process_time() - busy_begin) / whole_s)


def _summary(took_ns: "array[int]", unexpected: int, seconds: float, busy: float) -> Load:
    ordered = sorted(took_ns)
    p50, p95, p99 = (ordered[min(int(share * len(ordered)), len(ordered) - 1)] / 1000 for share in (0.5, 0.95, 0.99))
    return Load(len(ordered), unexpected, seconds, p50, p95, p99, busy)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _get(user: int) -> bytes:
    return f"GET /recommend/user-{user} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def _post(body: bytes) -> bytes:
    head = "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def _receive(connection: socket.socket, marker: bytes) -> bool:
    """Read one whole answer; tells whether the marker is in it."""
    answer = connection.recv(_RECEIVE_BYTES)
    while (head := answer.find(b"\r\n\r\n")) < 0:
        answer += _more(connection)
    at = answer.index(b"content-length: ") + 16
    whole = head + 4 + int(answer[at : answer.index(b"\r", at)])
    while len(answer) < whole:
        answer += _more(connection)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"not a 200: {answer[:600]!r}")
    return marker in answer


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(_RECEIVE_BYTES)
    if not part:
        raise SystemExit("the server closed a connection")
    return part


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, kind in (("port", int), ("connections", int), ("seconds", float), ("users", int), ("marker", str.encode)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--bodies", type=Path)
    parser.add_argument("--rate", type=float)
    asked = parser.parse_args()
    sendable = (
        [_post(body) for body in asked.bodies.read_bytes().splitlines()[: asked.users]]
        if asked.bodies
        else [_get(user) for user in range(asked.users)]
    )
    arguments = (asked.port, asked.connections, asked.seconds, sendable, asked.marker)
    found = _generate(*arguments) if asked.rate is None else _generate_at(*arguments, asked.rate)
    print(json.dumps({name: getattr(found, name) for name in Load.__slots__}))
