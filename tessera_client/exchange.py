"""A call as a generator of attempts: what to send, how long to wait, when to give up. A client has only to send.

attempt = next(plan)
attempt = plan.send(reply)     until StopIteration carries the answer
"""

import json
import random
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote

from tessera_client.errors import BY_STATUS, AnswerUnreadable, InvalidField, ServerFailed, TesseraError, TimedOut
from tessera_client.reading import read

T = TypeVar("T")

_RETRIED = (429, 503)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class Request:
    """What to send.

    Attributes:
        path: percent-encoded.
        params: of the query, in order.
        body: JSON; None for none.
    """

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Attempt:
    """Wait `pause_s`, then send; the whole reply must be there `timeout_s` later."""

    request: Request
    pause_s: float
    timeout_s: float


@dataclass(frozen=True)
class Limits:
    """Bounds of a call.

    Attributes:
        timeout_s: of one attempt.
        deadline_s: of the whole call, its retries and the pauses between them.
        retries: attempts after the first, at most; only of what was answered with 429 or 503.
    """

    timeout_s: float
    deadline_s: float
    retries: int


class Clock:
    """What is left of a call's time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._end = time.monotonic() + limits.deadline_s

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self._end - time.monotonic()

    def timeout_s(self, pause_s: float) -> float:
        """Seconds for the next attempt, after a pause.

        Raises:
            TimedOut: the deadline is over.
        """
        left = self.left_s() - pause_s
        if left <= 0:
            raise TimedOut(f"the call took longer than its deadline of {self._limits.deadline_s:g} s")
        return min(left, self._limits.timeout_s)


Plan = Generator[Attempt, Reply, T]
"""A call: gives attempts, takes replies, returns the answer."""


def path_of(*parts: str) -> str:
    """A path of segments, each percent-encoded whole: ids may hold slashes, or be nothing but dots."""
    encoded = (quote(part, safe="") for part in parts)
    return "".join("/" + (part.replace(".", "%2E") if part in (".", "..") else part) for part in encoded)


def ask(request: Request, kind: type[T], limits: Limits, clock: Clock | None = None) -> Plan[T]:
    """One request and its retries.

    Raises:
        TesseraError: of the last attempt.
    """
    clock = clock or Clock(limits)
    pause_s = 0.0
    for attempt in range(limits.retries + 1):
        reply = yield Attempt(request, pause_s, clock.timeout_s(pause_s))
        if 200 <= reply.status < 300:
            return _answer(kind, reply)
        error = problem_of(reply)
        pause_s = _pause_s(error, attempt)
        if reply.status not in _RETRIED or attempt == limits.retries or pause_s >= clock.left_s():
            raise error
    raise AssertionError("unreachable")


def encoded(value: Any) -> bytes:
    """JSON as it is sent.

    Raises:
        ValueError: NaN or infinity, for which JSON has no words.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _pause_s(error: TesseraError, attempt: int) -> float:
    backoff = min(_FIRST_PAUSE_S * 2.0**attempt, _LONGEST_PAUSE_S)
    # Spread, so that many clients which were refused together do not come back together.
    return float((error.retry_after_s or 0.0) + backoff * random.uniform(0.5, 1.0))


def _answer(kind: type[T], reply: Reply) -> T:
    try:
        return read(kind, json.loads(reply.body))
    except ValueError as error:
        what = "not JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
        raise AnswerUnreadable(
            f"not an answer this client knows: {what}",
            status=reply.status,
            request_id=reply.headers.get("x-request-id"),
        ) from None


def problem_of(reply: Reply) -> TesseraError:
    """What an answer that is no success says."""
    try:
        body = json.loads(reply.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {}
    kind = BY_STATUS.get(reply.status, ServerFailed)
    return kind(
        _text(body.get("detail")) or _text(body.get("title")) or "the answer says nothing more",
        status=reply.status,
        type=_text(body.get("type")),
        errors=_invalid_fields(body.get("errors")),
        request_id=_text(body.get("request_id")) or reply.headers.get("x-request-id"),
        retry_after_s=_seconds(reply.headers.get("retry-after")),
    )


def _invalid_fields(errors: Any) -> Sequence[InvalidField]:
    try:
        return [InvalidField(tuple(one["location"]), str(one["message"]), str(one["type"])) for one in errors or ()]
    except (TypeError, KeyError):
        return ()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which may be a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
