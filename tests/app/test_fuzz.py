"""Every field of every route, over real sockets, with what is made to break readers of text and numbers.

The fields come from the OpenAPI document, so a new route is covered when it is there.
"""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app import embedded_redis
from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.openapi_document import Operation, body_with, fields, filled, operations, valid_value
from tests.app.running_server import served

OPERATIONS = [pytest.param(operation, id=f"{operation.method} {operation.path}") for operation in operations()]
TAKING_BODIES = [
    pytest.param(operation, id=f"{operation.method} {operation.path}")
    for operation in operations()
    if operation.body_schema is not None
]
BEFORE_ANY_ROUTE = {"404", "405", "431"}
"""Statuses that no route has of its own: another path, another method, a head too large to read."""

STRINGS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\x01\x1f\x7f\x80\x9f",
    "\n",
    "a\r\nX-Injected: yes",
    "\t",
    "\ufffd",
    "\ufeff",
    "\u2028",
    "\u202ecba",
    "\U0010ffff",
    "e\u0301" * 200,
    "👩‍👩‍👧‍👦" * 20,
    "a" * 257,
    "a" * 20_000,
    "../../../etc/passwd",
    "..",
    ".",
    "/",
    "//",
    "a/b/history",
    "%00",
    "%",
    "%zz",
    "*",
    "{a}b{c}",
    "a:b:c",
    "'\"<script>\\",
    "{{7*7}}${7*7}",
    "<u_17><v_203><x_88><y_4>",
    "<|endoftext|>",
    "NaN",
    "Infinity",
    "-1",
    "1e400",
    "9" * 400,
    "0x10",
    "null",
    "true",
    "2026-13-45T99:99:99Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "-99999999999999999999",
)
LITERALS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"[[]]",
    b'[{"a": []}]',
    b'[""]',
    b"[null]",
    b"-1",
    b"0",
    b"-0.0",
    b"1.5",
    b"1e308",
    b"1e400",
    b"-1e400",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"9" * 30,
    b"-" + b"9" * 30,
    b"9" * 5_000,
    b"253402300800",
    b"-99999999999999",
    b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"\\u0000"',
    b'"\xff"',
    b'"\xc0\xaf"',
    b'"\xed\xa0\x80"',
    b'"\x01"',
    b'"' + b"a" * 1_000_000 + b'"',
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b"[" + b'"a",' * 5_000 + b'"a"]',
    b"[" + b'"a",' * 100_000 + b'"a"]',
    b'{"a": 1, "a": 2}',
    b'{"\\ud800": 1}',
    b'{"": 1}',
    b'{"' + b"a" * 1_000_000 + b'": 1}',
    b"",
    b"'a'",
    b"1 2",
    b"/* */ 1",
)
ESCAPES = (
    "%FF",
    "%C0%AF",
    "%ED%A0%80",
    "%F4%90%80%80",
    "a%FFb",
    "%00",
    "%0A",
    "%0D%0AX-Injected:%20yes",
    "%2F..%2F..%2Fetc%2Fpasswd",
    "%",
    "%4",
    "%zz",
    "%25%30%30",
    "+",
    "a;b",
)
BYTES = (b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\x01", b"\x7f", b"a\tb")
HEADERS = (
    b"X-API-Key",
    b"X-Request-ID",
    b"Accept",
    b"Content-Type",
    b"Content-Encoding",
    b"Cookie",
    b"Host",
    b"Origin",
)
ODD_HEADERS = (
    b"Content-Type: text/plain",
    b"Content-Type: multipart/form-data; boundary=a",
    b"Content-Type: " + b"application/json;" * 50,
    b"Content-Type: a/b/c",
    b"Content-Type: ;",
    b"Expect: 100-continue",
    b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Upgrade: h2c",
    b"Range: a",
)
MARK = "\ue000"


@pytest.fixture(scope="module")
def port(store: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    home = tmp_path_factory.mktemp("home")
    settings = Settings(store=store, home=home, redis_timeout_ms=2000, redis_write_timeout_ms=5000)
    with served(settings, workers=1) as client:
        yield client.base_url.port or 0
        assert client.get("/health/ready").json()["dependencies"]["redis"]["ok"]
    embedded_redis.stop(home)


def exchange(port: int, sent: bytes) -> bytes:
    """All that the server answers; empty if it closed before all was sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        parts = []
        try:
            connection.sendall(sent)
            while part := connection.recv(1 << 16):
                parts.append(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return b"".join(parts)


def request(method: str, target: bytes, body: bytes | None = None, headers: bytes = b"") -> bytes:
    head = method.upper().encode() + b" " + target + b" HTTP/1.1\r\nConnection: close\r\n" + headers
    if b"Host:" not in headers:
        head += b"Host: localhost\r\n"
    if body is None:
        return head + b"\r\n"
    if b"Content-Type:" not in headers:
        head += b"Content-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def wrong_with(operation: Operation, answered: bytes, sent: bytes) -> str | None:
    """What about an answer is not as it must be, None where nothing is."""
    if not answered and len(sent) > 1 << 16:
        return None
    head, _, body = answered.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    if found is None:
        return f"no answer: {answered[:80]!r}"
    status = found[1].decode()
    if status == "500":
        return f"500: {body[:200]!r}"
    documented = set(operation.described["responses"]) | BEFORE_ANY_ROUTE
    if status not in documented:
        return f"status {status} is not documented"
    if b"x-injected" in head.lower():
        return "a header of the caller's making"
    content_type = re.search(rb"content-type: ([^\r;]+)", head)
    if status >= "400":
        if content_type is None or content_type[1] != b"application/problem+json":
            return f"{status} of type {content_type and content_type[1]!r}"
        if len(body) > 100_000:
            return f"{status} of {len(body)} bytes"
        if not sent.startswith(b"HEAD ") and json.loads(body)["status"] != int(status):
            return "another status in the body"
    elif content_type is not None and content_type[1] == b"application/json":
        json.loads(body.decode())
    return None


def assert_none_wrong(operation: Operation, port: int, requests: Iterator[bytes]) -> None:
    wrong = []
    made = 0
    for sent in requests:
        made += 1
        try:
            problem = wrong_with(operation, exchange(port, sent), sent)
        except (ValueError, TimeoutError) as error:
            problem = repr(error)
        if problem is not None:
            wrong.append(f"{problem}\n    {sent[:300]!r}")
    assert made
    assert wrong == [], "\n".join(wrong[:20])


def body_of(operation: Operation) -> bytes | None:
    return None if operation.body_schema is None else json.dumps(valid_value(operation.body_schema)).encode()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_paths(operation: Operation, port: int) -> None:
    names = re.findall(r"\{(\w+)\}", operation.path)

    def requests() -> Iterator[bytes]:
        body = body_of(operation)
        for name in names:
            for text in (*(quote(text, safe="") for text in STRINGS), *ESCAPES, "a" * 1_000_000):
                yield request(operation.method, filled(operation.path, name, text).encode(), body)
            for raw in BYTES:
                template = filled(operation.path, name, MARK).encode()
                yield request(operation.method, template.replace(MARK.encode(), raw), body)
        for end in ("/", "//", "/.", "/..", ";a=b", "%00", "%0A", "#a", "?", "??", "?&&&", "?=", "?%FF=%FF", "?a" * 50):
            yield request(operation.method, filled(operation.path).encode() + end.encode(), body)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND"):
            # An operation of the same path may be meant, with its own statuses.
            if method.lower() not in {one.method for one in operations() if one.path == operation.path}:
                yield request(method, filled(operation.path).encode(), body)

    assert_none_wrong(operation, port, requests())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_query_parameters(operation: Operation, port: int) -> None:
    names = [one["name"] for one in operation.parameters if one["in"] == "query"]

    def requests() -> Iterator[bytes]:
        body = body_of(operation)
        path = filled(operation.path).encode()
        for name in (*names, "unknown"):
            for text in (*(quote(text, safe="") for text in STRINGS), *ESCAPES, "a" * 1_000_000):
                yield request(operation.method, path + f"?{name}={text}".encode(), body)
            for raw in BYTES:
                yield request(operation.method, path + f"?{name}=".encode() + raw, body)
            yield request(operation.method, path + f"?{name}=1&{name}=2".encode(), body)
            yield request(operation.method, path + b"?" + "&".join([f"{name}=a"] * 2_000).encode(), body)
            yield request(operation.method, path + f"?{name}[]=1&{name}[a]=2&{name}".encode(), body)

    assert_none_wrong(operation, port, requests())


@pytest.mark.parametrize("operation", TAKING_BODIES)
def test_fields_of_bodies(operation: Operation, port: int) -> None:
    schema: dict[str, Any] = operation.body_schema or {}

    def requests() -> Iterator[bytes]:
        path = filled(operation.path).encode()
        for at in fields(schema):
            template = json.dumps(body_with(schema, at, MARK), ensure_ascii=False).encode()
            for literal in (*(json.dumps(text).encode() for text in STRINGS), *LITERALS):
                yield request(operation.method, path, template.replace(f'"{MARK}"'.encode(), literal))
        whole = body_of(operation) or b""
        for cut in range(0, len(whole), 3):
            yield request(operation.method, path, whole[:cut])
        for mark in (b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\x1f\x8b\x08"):
            yield request(operation.method, path, mark + whole)
        for charset in ("utf-16", "utf-16-le", "utf-32", "latin-1"):
            yield request(operation.method, path, whole.decode().encode(charset))
        yield request(operation.method, path, b" " * (2 << 20))

    assert_none_wrong(operation, port, requests())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_headers(operation: Operation, port: int) -> None:
    def requests() -> Iterator[bytes]:
        path = filled(operation.path).encode()
        body = body_of(operation)
        for name in HEADERS:
            for value in (b"", b"\xff\xfe", b"a" * 20_000, b"a\tb", b'"<>', b"a, b", b"application/json; charset=\xff"):
                yield request(operation.method, path, body, name + b": " + value + b"\r\n")
            yield request(operation.method, path, body, (name + b": a\r\n") * 2)
        for header in ODD_HEADERS:
            yield request(operation.method, path, body, header + b"\r\n")

    assert_none_wrong(operation, port, requests())
