"""How many answers to users we know were fresh, and who was left wanting: counted here, in Redis about once a second.

The counts are for a refresh that follows traffic (`Keys.served`, `Keys.demand`). They cost a request no round trip, and
they may be lost: with Redis away, those of that second are dropped.
"""

import asyncio
import time
from collections import Counter

from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.telemetry import ByLabels, Telemetry
from app.user_state import AnswerCounts

FLUSH_S = 1.0
MAX_WANTING = 2000
"""Users a second whose demand one worker records; sent in one piece, more of them would hold up the event loop."""


class Freshness:
    """Counts answers until `run` or `flush` takes them to Redis."""

    def __init__(self, cache: RecommendationCache, telemetry: Telemetry) -> None:
        self._cache = cache
        self._telemetry = telemetry
        self._answers = ByLabels(telemetry.personal_answers)
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
                await self._cache.add_answers(served, demand)
            except CacheUnavailable:
                dropped = sum(counts.all for counts in served.values())
                self._telemetry.freshness_dropped.labels("redis").inc(dropped)
