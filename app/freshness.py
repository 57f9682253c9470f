"""How many answers to users we know were fresh, and who was left wanting: counted here, in Redis about once a second.

The counts are for a refresh that follows traffic (`Keys.served`, `Keys.demand`). They cost a request no round trip, and
they may be lost: with Redis away, those of that second are dropped.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio.client import Pipeline

from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.telemetry import ByLabels, Telemetry

FLUSH_S = 1.0
_SERVED_KEPT_S = 3 * 3600
_DEMAND_KEPT_S = 24 * 3600
_DEMAND_USERS = 1_000_000
MAX_WANTING = 2000
"""Users a second whose demand one worker records; sent in one piece, more of them would hold up the event loop."""


@dataclass(slots=True)
class AnswerCounts:
    """Answers of one minute to users with a history: all of them, and the fresh ones among them."""

    all: int = 0
    fresh: int = 0


class Freshness:
    """Counts answers until `run` or `flush` takes them to Redis."""

    def __init__(self, cache: RecommendationCache, telemetry: Telemetry) -> None:
        self._cache = cache
        self._telemetry = telemetry
        self._answers = ByLabels(telemetry.personal_answers, telemetry.batches)
        self._served: dict[int, AnswerCounts] = {}
        self._demand: Counter[str] = Counter()
        self._flushing = asyncio.Lock()

    def answered(self, user_id: str, *, fresh: bool, wanting: bool) -> None:
        """Note an answer to a user with a history.

        Args:
            user_id: whose it was.
            fresh: whether it came from a fresh entry of the user, or was decoded for it.
            wanting: whether a decode of the user's list is worth something, and this answer has not brought one.
        """
        self._answers["yes" if fresh else "no",].inc()
        counts = self._served.setdefault(int(time.time() // 60), AnswerCounts())
        counts.all += 1
        counts.fresh += fresh
        if not wanting:
            return
        if user_id in self._demand or len(self._demand) < MAX_WANTING:
            self._demand[user_id] += 1
        else:
            self._telemetry.freshness_dropped.labels("full").inc()

    def satisfied(self, user_id: str) -> None:
        """Take back what is not in Redis yet of a user who was decoded since."""
        self._demand.pop(user_id, None)

    async def forget(self, user_id: str) -> None:
        """Take back what is not in Redis yet of a user; what is on its way is there, or lost, when this returns."""
        async with self._flushing:
            self.satisfied(user_id)

    async def run(self) -> None:
        """Take the counts to Redis every second until cancelled; what is left then is for `flush`."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Take the counts to Redis, or drop them where it does not accept them."""
        async with self._flushing:
            served, self._served = self._served, {}
            demand, self._demand = self._demand, Counter()
            if not served:
                return
            try:
                await self._add(served, demand)
            except CacheUnavailable:
                dropped = sum(counts.all for counts in served.values())
                self._telemetry.freshness_dropped.labels("redis").inc(dropped)

    async def _add(self, served: Mapping[int, AnswerCounts], demand: Mapping[str, int]) -> None:
        keys = self._cache.keys

        def commands(pipeline: Pipeline) -> None:
            for minute, counts in served.items():
                key = keys.served(minute)
                pipeline.hincrby(key, "all", counts.all)
                pipeline.hincrby(key, "fresh", counts.fresh)
                pipeline.expire(key, _SERVED_KEPT_S)
            if not demand:
                return
            for user_id, times in demand.items():
                pipeline.zincrby(keys.demand, times, user_id)
            pipeline.zremrangebyrank(keys.demand, 0, -_DEMAND_USERS - 1)
            pipeline.expire(keys.demand, _DEMAND_KEPT_S)

        await self._cache.execute("freshness", commands)
