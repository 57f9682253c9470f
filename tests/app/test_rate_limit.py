"""How often one caller may ask."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from app.rate_limit import MAX_CALLERS, RateLimit
from app.settings import Settings
from tests.app.conftest import running
from tests.app.running_server import served
from tests.app.test_problems import assert_problem

SLOW, FAST = "slow-" + "s" * 16, "fast-" + "f" * 16


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    return Clock()


def answered(limit: RateLimit, caller: str, times: int, rate: float | None = None) -> int:
    return sum(limit.take(caller, rate) == 0 for _ in range(times))


def test_a_burst_then_the_rate(clock: Clock) -> None:
    limit = RateLimit(rate=10, burst=20, clock=clock)
    assert answered(limit, "ann", 50) == 20
    clock.now += 0.5
    assert answered(limit, "ann", 50) == 5
    clock.now += 3600
    assert answered(limit, "ann", 50) == 20


def test_the_burst_is_one_second_where_none_is_set(clock: Clock) -> None:
    assert answered(RateLimit(rate=10, clock=clock), "ann", 50) == 10
    assert answered(RateLimit(rate=0.1, clock=clock), "ann", 50) == 1


def test_who_waits_as_long_as_told_is_answered(clock: Clock) -> None:
    limit = RateLimit(rate=0.5, clock=clock)
    assert limit.take("ann") == 0
    wait = limit.take("ann")
    assert wait == pytest.approx(2)
    clock.now += wait / 2
    assert limit.take("ann") == pytest.approx(1)
    clock.now += wait / 2 + 1e-6
    assert limit.take("ann") == 0


def test_callers_do_not_use_up_each_other(clock: Clock) -> None:
    limit = RateLimit(rate=5, clock=clock)
    assert answered(limit, "ann", 50) == answered(limit, "ben", 50) == 5


def test_workers_share_the_rate(clock: Clock) -> None:
    workers = [RateLimit(rate=40, burst=40, workers=4, clock=clock) for _ in range(4)]
    assert [answered(worker, "ann", 50) for worker in workers] == [10] * 4
    clock.now += 1
    assert sum(answered(worker, "ann", 50) for worker in workers) == 40


def test_a_rate_of_its_own_and_none(clock: Clock) -> None:
    limit = RateLimit(rate=5, clock=clock)
    assert answered(limit, "ann", 100, rate=50) == 50
    assert answered(limit, "ben", 100, rate=0) == 100
    assert answered(RateLimit(rate=0, clock=clock), "ann", 100) == 100


def test_memory_is_bounded_and_those_who_ask_are_kept(clock: Clock) -> None:
    limit = RateLimit(rate=1, clock=clock)
    assert limit.take("ann") == 0
    for number in range(2 * MAX_CALLERS):
        limit.take(number)
        if number % 1000 == 0:
            assert limit.take("ann") > 0
    assert len(limit) == MAX_CALLERS


@pytest.mark.anyio
async def test_beyond_it_a_429_says_when_to_come_again(settings: Settings, stored: object, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    slow, fast = (sha256(key.encode()).hexdigest() for key in (SLOW, FAST))
    file.write_text(f"read:sha256={slow}\nread:sha256={fast} rate=1000\n")
    limited = settings.model_copy(update={"api_keys_file": file, "rate_limit": 0.1, "rate_burst": 3})
    async with running(limited) as app:
        answers = [await app.client.get("/popular", headers={"X-API-Key": SLOW}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
        assert_problem(answers[-1], 429, "rate-limited")
        assert 8 <= int(answers[-1].headers["retry-after"]) <= 10
        assert answers[-1].headers["ratelimit-limit"] == "3"
        assert answers[-1].headers["ratelimit-remaining"] == "0"
        assert answers[-1].headers["ratelimit-reset"] == answers[-1].headers["retry-after"]
        # Not those who come with another key or with none, nor health.
        assert (await app.client.get("/popular", headers={"X-API-Key": FAST})).status_code == 200
        assert (await app.client.get("/popular")).status_code == 401
        for _ in range(10):
            assert (await app.client.get("/health/live")).status_code == 200


@pytest.mark.anyio
async def test_without_keys_an_address_is_limited(settings: Settings, stored: object) -> None:
    async with running(settings.model_copy(update={"rate_limit": 0.1, "rate_burst": 2})) as app:
        statuses = [(await app.client.get("/popular")).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]


def test_workers_of_a_server_share_the_rate(settings: Settings, stored: object) -> None:
    with served(settings.model_copy(update={"rate_limit": 0.001, "rate_burst": 6}), workers=2) as client:
        # A new connection each time, so that both workers get some.
        statuses = [httpx.get(f"{client.base_url}/popular", timeout=10).status_code for _ in range(60)]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 6
