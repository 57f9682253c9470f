"""What comes over the wire and is no request, or too large a one, over real sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, WHOLE_ANSWER, HttpProtocol

HEAD_TIMEOUT_S = 0.4
WRITE_TIMEOUT_S = 1.5
LARGE = 50_000_000


class ImpatientProtocol(HttpProtocol):
    """Waits less, so that tests need not."""

    head_timeout_s = HEAD_TIMEOUT_S
    write_timeout_s = WRITE_TIMEOUT_S


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    """An answer that any buffer has room for, or one that none has; under /whole in one piece where that is offered."""
    if scope["path"] == "/whole" and scope["extensions"][WHOLE_ANSWER](b"content-length: 4\r\nx-whole: 1\r\n", b"here"):
        return
    await PlainTextResponse(b"a" * LARGE if scope["path"] == "/large" else b"here")(scope, receive, send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn.Config(answers, port=0, http=ImpatientProtocol, lifespan="off", log_level="critical", ws="none")
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


@contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        # It closed with bytes of ours unread.
        pass
    return b"".join(parts)


def answer(port: int, request: bytes) -> bytes:
    with connection(port) as to_server:
        to_server.sendall(request)
        return said(to_server)


def assert_served(connection: socket.socket) -> None:
    """One answer, on a connection that stays open."""
    answered = b""
    while not answered.endswith(b"here"):
        part = connection.recv(1 << 16)
        assert part, answered
        answered += part


def assert_problem(answered: bytes, status: int) -> None:
    head, _, body = answered.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["status"] == status


def request(head: bytes = b"", target: bytes = b"/popular") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + head + b"\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"nothing at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /popular HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /a\x00b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        request(b"Content-Length: ten\r\n"),
        request(b"Content-Length: -1\r\n"),
        request(b"Content-Length: 1\r\nContent-Length: 2\r\n"),
        request(b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        request(b"Transfer-Encoding: nothing\r\n"),
        request(b"No colon\r\n"),
        request(b"X: a\x00b\r\n"),
        request(b": nameless\r\n"),
        b"GET /popular HTTP/1.1\r\nHost: localhost\r\nX: a\nY: b\r\n\r\n"[:40] + b"\x01: c\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_by_a_problem_or_not_served(port: int, sent: bytes) -> None:
    answered = answer(port, sent)
    if b"Transfer-Encoding: chunked\r\n\r\nxyz" in sent:
        # The answer may be under way before the body is seen to be none.
        assert answered.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    else:
        assert_problem(answered, 400)


def test_a_request_within_the_bounds_is_served(port: int) -> None:
    assert answer(port, request(b"X-Other: a\r\n" * (MAX_HEADERS - 2))).endswith(b"here")
    assert answer(port, request(b"X-Other: " + b"a" * (MAX_HEAD_BYTES - 200) + b"\r\n")).endswith(b"here")


@pytest.mark.parametrize(
    "sent",
    [
        request(b"X-Other: a\r\n" * (MAX_HEADERS - 1)),
        request(b"X-Other: " + b"a" * MAX_HEAD_BYTES + b"\r\n"),
        request(b"X-Other: " + b"a" * 3_000_000),
        request(b"X-" + b"a" * 3_000_000),
        request(target=b"/" + b"a" * MAX_HEAD_BYTES),
        b"GET /" + b"a" * 3_000_000,
        request(b"X-Other: a\r\n" * 100_000),
    ],
)
def test_a_head_too_large_is_a_431(port: int, sent: bytes) -> None:
    with connection(port) as to_server:
        try:
            to_server.sendall(sent)
        except (BrokenPipeError, ConnectionResetError):
            # The server has closed long before all of it was sent.
            return
        answered = said(to_server)
    # A reset may have overtaken the answer.
    if answered or len(sent) < 2 * MAX_HEAD_BYTES:
        assert_problem(answered, 431)


def test_a_large_body_is_no_large_head(port: int) -> None:
    body = b"a" * (4 * MAX_HEAD_BYTES)
    sent = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with connection(port) as to_server:
        for _ in range(3):
            to_server.sendall(sent)
            assert_served(to_server)


def test_requests_on_one_connection_each_have_the_whole_bound(port: int) -> None:
    one = request(b"X-Other: " + b"a" * (MAX_HEAD_BYTES // 2) + b"\r\n").replace(b"Connection: close\r\n", b"")
    with connection(port) as to_server:
        for _ in range(6):
            to_server.sendall(one)
            assert_served(to_server)


@pytest.mark.parametrize("begin", [b"", b"GET /popular HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_ends_the_connection(port: int, begin: bytes) -> None:
    started = time.monotonic()
    with connection(port) as to_server:
        to_server.sendall(begin)
        assert said(to_server) == b""
    assert HEAD_TIMEOUT_S * 0.9 < time.monotonic() - started < HEAD_TIMEOUT_S + 10


@pytest.mark.parametrize("served_before", [0, 1])
def test_a_head_that_drips_ends_the_connection(port: int, served_before: int) -> None:
    def drip(to_server: socket.socket) -> None:
        while time.monotonic() < started + 20:
            to_server.sendall(b"X")
            time.sleep(0.02)

    started = time.monotonic()
    with connection(port) as to_server:
        for _ in range(served_before):
            to_server.sendall(request().replace(b"Connection: close\r\n", b""))
            assert_served(to_server)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(to_server)
    assert time.monotonic() - started < HEAD_TIMEOUT_S + 10


def test_a_connection_that_waits_between_requests_is_kept(port: int) -> None:
    one = request().replace(b"Connection: close\r\n", b"")
    with connection(port) as to_server:
        for _ in range(2):
            to_server.sendall(one)
            assert_served(to_server)
            time.sleep(1.5 * HEAD_TIMEOUT_S)


def test_an_answer_that_nobody_reads_is_given_up(port: int) -> None:
    with connection(port) as to_server:
        to_server.sendall(request(target=b"/large"))
        time.sleep(3 * WRITE_TIMEOUT_S)
        assert len(said(to_server)) < LARGE


def test_a_large_answer_that_is_read_comes_whole(port: int) -> None:
    assert len(answer(port, request(target=b"/large"))) > LARGE


def test_an_answer_in_one_piece_is_like_any_other(port: int) -> None:
    one = request(target=b"/whole").replace(b"Connection: close\r\n", b"")
    with connection(port) as to_server:
        for _ in range(3):
            to_server.sendall(one)
            head, _, body = to_server.recv(1 << 16).partition(b"\r\n\r\n")
            assert body == b"here"
            first, *lines = head.split(b"\r\n")
            assert first == b"HTTP/1.1 200 OK"
            assert {line.partition(b": ")[0] for line in lines} == {b"date", b"server", b"content-length", b"x-whole"}


def test_requests_sent_together_are_answered_in_turn(port: int) -> None:
    one = request(target=b"/whole").replace(b"Connection: close\r\n", b"")
    with connection(port) as to_server:
        to_server.sendall(one + one + request())
        answered = said(to_server)
    assert answered.count(b"x-whole: 1") == 2
    assert answered.count(b"here") == 3
    assert answered.endswith(b"here")


@pytest.mark.parametrize("sent", [request(target=b"/whole"), b"GET /whole HTTP/1.0\r\nHost: localhost\r\n\r\n"])
def test_the_last_answer_of_a_connection_says_so(port: int, sent: bytes) -> None:
    answered = answer(port, sent)
    assert b"connection: close\r\n" in answered
    assert b"x-whole" not in answered
    assert answered.endswith(b"here")


def test_one_piece_is_not_offered_while_the_client_leaves_answers_unread(port: int) -> None:
    large = request(target=b"/large").replace(b"Connection: close\r\n", b"")
    with connection(port) as to_server:
        to_server.sendall(large + request(target=b"/whole"))
        answered = said(to_server)
    assert len(answered) > LARGE
    assert answered.endswith(b"here")
