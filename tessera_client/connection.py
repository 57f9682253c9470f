"""What both clients are made of: checked arguments, HTTP requests, replies in time."""

import re
from collections.abc import Mapping
from typing import TypedDict

import httpx

from tessera_client.errors import ConnectionFailed, TesseraError, TimedOut
from tessera_client.exchange import Attempt, Limits, Reply

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_DEADLINE_S = 30.0
DEFAULT_RETRIES = 4

_KEY = re.compile(r"[!-~]+")
_CREDENTIALS = re.compile(r"//[^/@]*@")


class HttpRequest(TypedDict):
    """The arguments of httpx's `build_request`."""

    method: str
    url: str
    params: tuple[tuple[str, str | int | float | bool | None], ...] | None
    content: bytes | None
    headers: dict[str, str]
    timeout: float


def limits_of(timeout_s: float, deadline_s: float, retries: int) -> Limits:
    """The bounds of calls, checked.

    Raises:
        ValueError: a time is not above 0, or retries are below it.
    """
    if not timeout_s > 0 or not deadline_s > 0:
        raise ValueError("timeout_s and deadline_s must be above 0")
    if retries < 0:
        raise ValueError("retries must not be below 0")
    return Limits(timeout_s, deadline_s, retries)


def headers_of(api_key: str | None) -> dict[str, str]:
    """The headers of every request.

    Raises:
        ValueError: the key cannot be one; the message does not repeat it.
    """
    if api_key is None:
        return {"Accept": "application/json"}
    if not _KEY.fullmatch(api_key):
        raise ValueError("api_key: only visible ASCII characters, and at least one")
    return {"Accept": "application/json", "X-API-Key": api_key}


def shown_url(base_url: str) -> str:
    """An address as it may be shown, without a user and password."""
    return _CREDENTIALS.sub("//", base_url)


def http_request(attempt: Attempt) -> HttpRequest:
    """An attempt as httpx takes it."""
    request = attempt.request
    return {
        "method": request.method,
        "url": request.path,
        "params": request.params or None,
        "content": request.body,
        "headers": {} if request.body is None else {"Content-Type": "application/json"},
        "timeout": attempt.timeout_s,
    }


def reply_of(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """What httpx has received."""
    return Reply(status, {name.lower(): value for name, value in headers.items()}, body)


def failed(error: httpx.HTTPError | httpx.InvalidURL, base_url: str, timeout_s: float) -> TesseraError:
    """What httpx could not do."""
    if isinstance(error, httpx.TimeoutException):
        return late(base_url, timeout_s)
    return ConnectionFailed(f"{shown_url(base_url)}: {type(error).__name__}: {error}")


def late(base_url: str, timeout_s: float) -> TimedOut:
    """There was no whole answer in time."""
    return TimedOut(f"{shown_url(base_url)}: no whole answer within {timeout_s:.3g} s")
