"""When a call is tried again, how long it waits, and when it gives up."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app import embedded_redis
from tessera_client import (
    AnswerUnreadable,
    AsyncTessera,
    ConnectionFailed,
    Event,
    InvalidRequest,
    ServerFailed,
    Tessera,
    TesseraError,
    TimedOut,
    TooManyRequests,
    Unavailable,
)
from tessera_client.answers import Forgotten, RecordedEvents
from tessera_client.calls import Calls
from tessera_client.exchange import Attempt, Limits, Plan, Reply, Request, ask
from tests.client.conftest import Service

pytestmark = pytest.mark.anyio

LIMITS = Limits(timeout_s=2, deadline_s=10, retries=3)
GOOD = Reply(200, {}, b'{"user_id": "ann", "existed": true, "news": 1}')


def busy(status: int = 503, **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, b'{"detail": "busy"}')


def drive(plan: Plan[Any], *replies: Reply) -> tuple[Any, list[Attempt]]:
    """Answer a plan's attempts one after the other, without waiting; its answer or error, and the attempts."""
    attempts: list[Attempt] = []
    left = list(replies)
    try:
        attempt = next(plan)
        while True:
            attempts.append(attempt)
            assert left, "the plan wants more replies"
            attempt = plan.send(left.pop(0))
    except StopIteration as end:
        return end.value, attempts
    except TesseraError as error:
        return error, attempts


def forget(limits: Limits = LIMITS) -> Plan[Forgotten]:
    return ask(Request("DELETE", "/users/ann"), Forgotten, limits)


def test_busy_is_tried_again_with_growing_pauses_until_it_is_good() -> None:
    answer, attempts = drive(forget(), busy(), busy(429), busy(), GOOD)
    assert answer == Forgotten("ann", True)
    pauses = [attempt.pause_s for attempt in attempts]
    assert pauses[0] == 0
    for pause, most in zip(pauses[1:], (0.1, 0.2, 0.4), strict=True):
        assert most / 2 <= pause <= most


def test_retries_are_bounded_and_the_last_answer_is_the_error() -> None:
    error, attempts = drive(forget(), busy(), busy(), busy(), busy(429, retry_after="7"))
    assert isinstance(error, TooManyRequests)
    assert (error.status, error.detail, error.retry_after_s, len(attempts)) == (429, "busy", 7, 4)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 501, 502, 302])
def test_nothing_else_is_tried_again(status: int) -> None:
    error, attempts = drive(forget(), busy(status))
    assert (error.status, len(attempts)) == (status, 1)


def test_the_service_is_not_asked_before_it_says_nor_after_the_deadline() -> None:
    _, attempts = drive(forget(), busy(retry_after="3"), GOOD)
    assert 3 < attempts[1].pause_s <= 3.1
    error, attempts = drive(forget(), busy(retry_after="11"))
    assert isinstance(error, Unavailable)
    assert len(attempts) == 1
    error, attempts = drive(forget(), busy(retry_after="Wed, 21 Oct 2099 07:28:00 GMT"))
    assert (error.retry_after_s > 1e9, len(attempts)) == (True, 1)


def test_an_attempt_may_take_what_is_left_of_the_deadline() -> None:
    _, attempts = drive(forget(Limits(timeout_s=60, deadline_s=5, retries=1)), busy(retry_after="3"), GOOD)
    assert attempts[0].timeout_s == pytest.approx(5, abs=0.1)
    assert attempts[1].timeout_s == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "answer is no object"),
        (b'{"user_id": "ann"}', "answer.existed is missing"),
        (b'{"user_id": "ann", "existed": 1}', "answer.existed is of another type"),
    ],
)
def test_an_answer_of_something_else_says_what_is_wrong_with_it(body: bytes, said: str) -> None:
    error, _ = drive(forget(), Reply(200, {"x-request-id": "r1"}, body))
    assert isinstance(error, AnswerUnreadable)
    assert said in error.detail
    assert error.request_id == "r1"


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'{"detail": 5, "errors": "x"}', b'{"errors": [{}]}'])
def test_an_error_that_is_no_problem_document_is_an_error_all_the_same(body: bytes) -> None:
    error, _ = drive(forget(), Reply(502, {}, body))
    assert isinstance(error, ServerFailed)
    assert str(error) == "502: the answer says nothing more"


def recorded(accepted: int) -> Reply:
    return Reply(
        200, {}, b'{"accepted": %d, "rejected": [{"row": 1, "item_id": "x", "reason": "unknown_item"}]}' % accepted
    )


def events(count: int, item: str = "item-1") -> Iterator[Event]:
    return (Event(user_id=f"user-{number}", item_id=item) for number in range(count))


def test_events_go_in_requests_of_bounded_size_and_rows_count_from_the_first() -> None:
    answer, attempts = drive(
        Calls(LIMITS).record_events(events(1200), None), recorded(499), recorded(499), recorded(199)
    )
    assert isinstance(answer, RecordedEvents)
    assert (answer.accepted, [one.row for one in answer.rejected]) == (1197, [1, 501, 1001])
    assert [(attempt.request.body or b"").count(b"user_id") for attempt in attempts] == [500, 500, 200]
    _, attempts = drive(Calls(LIMITS).record_events(events(9, "x" * 100_000), None), *[recorded(1)] * 5)
    assert [len(attempt.request.body or b"") < 300_000 for attempt in attempts] == [True] * 5


def test_an_event_that_is_sent_again_has_the_same_id_and_no_two_events_have_one() -> None:
    _, attempts = drive(Calls(LIMITS).record_events(events(3), None), busy(), recorded(3))
    assert attempts[0].request == attempts[1].request
    assert len(set(re.findall(rb'"id":"([0-9a-f]{32})"', attempts[0].request.body or b""))) == 3


def test_events_that_fail_half_way_say_how_many_were_recorded_and_which_row_is_wrong() -> None:
    wrong = b'{"errors": [{"location": ["body", 2, "item_id"], "message": "too long", "type": "t"}]}'
    error, _ = drive(Calls(LIMITS).record_events(events(900), None), recorded(499), Reply(422, {}, wrong))
    assert isinstance(error, InvalidRequest)
    assert (error.recorded, error.errors[0].location) == (500, ("body", 502, "item_id"))


def test_events_of_one_call_share_one_deadline() -> None:
    plan = Calls(LIMITS).record_events(events(900), 0.05)
    next(plan)
    time.sleep(0.06)
    with pytest.raises(TimedOut) as late:
        plan.send(recorded(499))
    assert late.value.recorded == 500


def test_no_event_is_no_request(service: Service) -> None:
    with Tessera("http://127.0.0.1:9") as nobody:
        assert nobody.record_events([]) == RecordedEvents(0, ())
        assert nobody.recommend_many([]) == ()


def test_events_wait_for_redis_to_come_back(service: Service) -> None:
    home = service.settings.home
    embedded_redis.stop(home)
    starting = threading.Timer(0.5, embedded_redis.ensure_running, [home])
    starting.start()
    try:
        with Tessera(service.url) as client:
            begin = time.monotonic()
            assert client.record_events([Event(user_id="late", item_id="item-1")]).accepted == 1
            assert time.monotonic() - begin >= 1, "as long as Retry-After says"
    finally:
        starting.join()
    assert service.cache.history("late") == ["item-1"]


@contextmanager
def slow_server() -> Iterator[str]:
    """Sends a head at once, and then a byte every 50 ms, for good."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.05)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_an_answer_that_trickles_in_is_given_up_in_time() -> None:
    with slow_server() as url, Tessera(url, timeout_s=0.3) as client:
        begin = time.monotonic()
        with pytest.raises(TimedOut, match=r"0\.3 s"):
            client.models()
        assert 0.3 <= time.monotonic() - begin < 1


async def test_so_does_the_asynchronous_client() -> None:
    with slow_server() as url:
        async with AsyncTessera(url, timeout_s=0.3) as client:
            begin = time.monotonic()
            with pytest.raises(TimedOut, match=r"0\.3 s"):
                await client.models()
            assert 0.3 <= time.monotonic() - begin < 1


async def test_nobody_there_is_an_error_without_the_password_of_the_address() -> None:
    with Tessera("http://ann:swordfish@127.0.0.1:9") as client, pytest.raises(ConnectionFailed) as failure:
        client.models()
    assert "swordfish" not in str(failure.value) + repr(client)
    async with AsyncTessera("http://127.0.0.1:9") as other:
        with pytest.raises(ConnectionFailed):
            await asyncio.wait_for(other.models(), 5)


@pytest.mark.parametrize(
    "arguments", [{"timeout_s": 0}, {"deadline_s": -1}, {"retries": -1}, {"timeout_s": float("nan")}]
)
def test_bounds_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Tessera(**arguments)
