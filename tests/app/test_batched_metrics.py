"""What is counted in batches is what the library would have counted one by one."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.batched_metrics import COUNTED_AFTER_S, MetricBatches

BOUNDS = (0.001, 0.01, 0.1, 1.0)

observations = st.lists(st.sampled_from([*BOUNDS, 0.0]) | st.floats(0, 3), max_size=40)


def exposed(amounts: list[float], batched: bool) -> list[str]:
    """What a histogram and a counter say that got these amounts."""
    registry, batches = CollectorRegistry(), MetricBatches()
    histogram = Histogram("took", "", ("kind",), registry=registry, buckets=BOUNDS).labels("a")
    counter = Counter("items", "", registry=registry)

    async def observe() -> None:
        observed, counted = (
            (batches.histogram(histogram), batches.counter(counter)) if batched else (histogram, counter)
        )
        for amount in amounts:
            observed.observe(amount)
            counted.inc(int(amount * 1000))

    asyncio.run(observe())
    batches.count()
    said = generate_latest(registry).decode().splitlines()
    return [line for line in said if "_created" not in line and "_sum" not in line]


@given(observations)
def test_batches_say_what_single_observations_say(amounts: list[float]) -> None:
    assert exposed(amounts, batched=True) == exposed(amounts, batched=False)


async def until_counted(counter: Counter) -> None:
    while not counter._value.get():
        await asyncio.sleep(COUNTED_AFTER_S)


def test_batches_are_counted_without_being_asked() -> None:
    batches = MetricBatches()
    first, second = (Counter(name, "", registry=CollectorRegistry()) for name in ("first", "second"))

    async def count() -> None:
        for counter in (first, second):
            # One after the other: the timer of the first is over.
            batches.counter(counter).inc(3)
            async with asyncio.timeout(10):
                await until_counted(counter)

    asyncio.run(count())
    assert (first._value.get(), second._value.get()) == (3, 3)


def test_without_a_loop_nothing_waits() -> None:
    histogram = Histogram("took", "", registry=CollectorRegistry(), buckets=BOUNDS)
    batched = MetricBatches().histogram(histogram)
    batched.observe(0.5)
    batched.observe(0.25)
    assert histogram._sum.get() == 0.75
