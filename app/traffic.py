"""Answers by minute, source and time taken, of all workers: counted here, added up in Redis about once a second.

It costs a request no round trip. With Redis away the counts of that second are lost.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from redis.asyncio.client import Pipeline

from app.latency import quantile
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.telemetry import latency_buckets

MINUTES = 60
"""Shown; a few more are kept."""
_FLUSH_S = 1.0
_KEPT_S = 2 * 3600
_FAILED = "failed"
_SOURCE, _BUCKET = "source:", "bucket:"
_BOUNDS = (*latency_buckets(), float("inf"))
_QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


@dataclass(frozen=True)
class TrafficHistory:
    """The last minutes, oldest first; the last one is not over yet.

    Attributes:
        minutes: when each began, Unix seconds.
        answers: of each source that answered, how many in each minute.
        failed: answers with a status of 500 or more.
        fresh_share: of the answers to users with a history; None in minutes without one.
        latency: p50_ms, p95_ms and p99_ms of the answers, each by minute; None in minutes without one.
    """

    minutes: list[int]
    answers: dict[str, list[int]]
    failed: list[int]
    fresh_share: list[float | None]
    latency: dict[str, list[float | None]]


class Traffic:
    """Counts answers until `run` or `flush` takes them to Redis."""

    def __init__(self) -> None:
        self._answers: list[tuple[str, float]] = []
        self._failed = 0

    def answered(self, source: str, seconds: float) -> None:
        """Note a recommendation from a source, and how long it took."""
        self._answers.append((source, seconds))

    def failed(self) -> None:
        """Note an answer with a status of 500 or more."""
        self._failed += 1

    async def run(self, cache: RecommendationCache) -> None:
        """Take the counts to Redis every second until cancelled; what is left then is for `flush`."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self.flush(cache)

    async def flush(self, cache: RecommendationCache) -> None:
        """Take the counts to Redis, or drop them where it does not accept them."""
        answers, self._answers = self._answers, []
        failed, self._failed = self._failed, 0
        if not answers and not failed:
            return
        counts = Counter(f"{_SOURCE}{source}" for source, _ in answers)
        took = np.searchsorted(_BOUNDS, [seconds for _, seconds in answers])
        counts.update({f"{_BUCKET}{bucket}": n for bucket, n in enumerate(np.bincount(took).tolist()) if n})
        if failed:
            counts[_FAILED] = failed
        # To within the second since the last flush.
        key = cache.keys.traffic(int(time.time() // 60))

        def commands(pipeline: Pipeline) -> None:
            for field, count in counts.items():
                pipeline.hincrby(key, field, count)
            pipeline.expire(key, _KEPT_S)

        with suppress(CacheUnavailable):
            await cache.execute("traffic", commands)


async def traffic_history(cache: RecommendationCache) -> TrafficHistory:
    """Read the last hour.

    Raises:
        CacheUnavailable: Redis did not answer in time.
    """
    now = int(time.time() // 60)
    minutes = range(now - MINUTES + 1, now + 1)

    def commands(pipeline: Pipeline) -> None:
        for minute in minutes:
            pipeline.hgetall(cache.keys.traffic(minute))
            pipeline.hmget(cache.keys.served(minute), "fresh", "all")

    found = await cache.execute("traffic", commands)
    rows = [{name.decode(): int(count) for name, count in row.items()} for row in found[::2]]
    sources = sorted({name[len(_SOURCE) :] for row in rows for name in row if name.startswith(_SOURCE)})
    shares = [round(int(fresh or 0) / int(every), 4) if every else None for fresh, every in found[1::2]]
    return TrafficHistory(
        minutes=[60 * minute for minute in minutes],
        answers={source: [row.get(_SOURCE + source, 0) for row in rows] for source in sources},
        failed=[row.get(_FAILED, 0) for row in rows],
        fresh_share=shares,
        latency={name: [_quantile(row, share) for row in rows] for name, share in _QUANTILES.items()},
    )


def _quantile(row: Mapping[str, int], share: float) -> float | None:
    """Milliseconds that `share` of a minute's answers did not exceed."""
    cumulative, total = [], 0
    for number in range(len(_BOUNDS)):
        total += row.get(f"{_BUCKET}{number}", 0)
        cumulative.append(total)
    return round(1000 * quantile(_BOUNDS, cumulative, share), 3) if total else None
