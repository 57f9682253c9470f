"""What has been popular of late: events counted by the hour and by the day in Redis, ranked in memory.

A window of k hours or days is the running one, the k - 1 before it, and of the one before these the share that is not
over: what is counted moves on evenly, and is exact but for that oldest bucket (`Keys.popular`).
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from redis.asyncio.client import Pipeline

from app.popular_items import PopularItems
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.schemas import Window
from app.served_model import ServedModel
from app.telemetry import Telemetry

FLUSH_S = 1.0
RENEW_S = 10.0
"""Age from which a ranking is made anew before it is shown."""
MAX_BUCKET_ITEMS = 10_000
"""Items of one bucket; those with the fewest events go first."""
MAX_WAITING = 20_000
"""Counts of one worker that may wait to be written."""
_RANKED_ITEMS = 2000
_BUCKETS_AT_ONCE = 6
_COUNTS_AT_ONCE = 500
_RETRY_S = 1.0
_SETTLED_S = 600.0
"""How long the counts of a bucket that is over are taken as they are: few events come late."""
_HOUR_S, _DAY_S = 3600, 86_400
_KEPT_S = {"h": 26 * _HOUR_S, "d": 32 * _DAY_S}
_UNIT_S = {"h": _HOUR_S, "d": _DAY_S}
_SPANS: dict[Window, tuple[str, int]] = {"1h": ("h", 1), "24h": ("h", 24), "7d": ("d", 7), "30d": ("d", 30)}
_AHEAD_S = 60.0


class WindowUnavailable(Exception):
    """The events of a window were never counted by this worker, and Redis cannot be reached now."""


@dataclass
class _Ranking:
    counts: dict[str, float]
    made_at: float
    """Unix seconds."""
    model: ServedModel | None = None
    popular: PopularItems | None = None


@dataclass
class _Bucket:
    counts: dict[str, float] = field(default_factory=dict)
    read_at: float = 0.0


def buckets_of(window: Window, now: float) -> Iterator[tuple[str, float]]:
    """The buckets of a window that ends now, newest first, and the share of each that counts."""
    kind, units = _SPANS[window]
    newest, into = divmod(now, _UNIT_S[kind])
    for back in range(units):
        yield f"{kind}{int(newest) - back}", 1.0
    yield f"{kind}{int(newest) - units}", 1 - into / _UNIT_S[kind]


class PopularWindows:
    """Counts events until `run` or `flush` takes them to Redis, and ranks what is counted there. One event loop's."""

    def __init__(self, cache: RecommendationCache, telemetry: Telemetry) -> None:
        self._cache = cache
        self._keys = cache.keys
        self._telemetry = telemetry
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._rankings: dict[Window, _Ranking] = {}
        self._tried_at: dict[Window, float] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._renewing: dict[Window, asyncio.Lock] = defaultdict(asyncio.Lock)

    def happened(self, item_id: str, at_s: float) -> None:
        """Count an event of Unix time `at_s`. Those that no window could show are left out."""
        age_s = time.time() - at_s
        for kind, unit_s in _UNIT_S.items():
            if not -_AHEAD_S < age_s < _KEPT_S[kind]:
                continue
            where = f"{kind}{int(at_s // unit_s)}", item_id
            if where in self._waiting or len(self._waiting) < MAX_WAITING:
                self._waiting[where] += 1
            else:
                self._telemetry.popular_dropped.labels("full").inc()

    async def run(self) -> None:
        """Take the counts to Redis every second until cancelled; what is left then is for `flush`."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Take the counts to Redis, or drop them where it does not accept them."""
        waiting, self._waiting = list(self._waiting.items()), Counter()
        for start in range(0, len(waiting), _COUNTS_AT_ONCE):
            part = waiting[start : start + _COUNTS_AT_ONCE]

            def commands(pipeline: Pipeline, part: list[tuple[tuple[str, str], int]] = part) -> None:
                for (bucket, item_id), events in part:
                    pipeline.zincrby(self._keys.popular(bucket), events, item_id)
                for bucket in {bucket for (bucket, _), _ in part}:
                    pipeline.zremrangebyrank(self._keys.popular(bucket), 0, -MAX_BUCKET_ITEMS - 1)
                    pipeline.expire(self._keys.popular(bucket), _KEPT_S[bucket[0]])

            try:
                await self._cache.execute("popular", commands)
            except CacheUnavailable:
                self._telemetry.popular_dropped.labels("redis").inc(sum(events for _, events in part))

    async def ranking(self, model: ServedModel, window: Window) -> tuple[PopularItems, float]:
        """The items with events in a window, and the ranking's age in seconds: at most RENEW_S while Redis is there.

        Raises:
            WindowUnavailable: there is none, and Redis did not answer in time.
        """
        found = self._rankings.get(window)
        renewing = self._renewing[window]
        if found is None or (time.time() - found.made_at > RENEW_S and not renewing.locked()):
            async with renewing:
                found = await self._renewed(window)
        if found.popular is None or found.model is not model:
            found.popular, found.model = await asyncio.to_thread(_ranked, model, found.counts), model
        return found.popular, max(time.time() - found.made_at, 0.0)

    async def _renewed(self, window: Window) -> _Ranking:
        now = time.time()
        found = self._rankings.get(window)
        if found is not None and now - found.made_at <= RENEW_S:
            # Whoever held the lock before has made it.
            return found
        if now - self._tried_at.get(window, 0.0) > _RETRY_S:
            try:
                counts: defaultdict[str, float] = defaultdict(float)
                for bucket, share in await self._read(window, now):
                    for item_id, events in bucket.counts.items():
                        counts[item_id] += events * share
                found = self._rankings[window] = _Ranking(counts, now)
            except CacheUnavailable:
                self._tried_at[window] = now
        if found is None:
            raise WindowUnavailable
        return found

    async def _read(self, window: Window, now: float) -> list[tuple[_Bucket, float]]:
        names = list(buckets_of(window, now))
        running = names[0][0]
        due = [name for name, _ in names if name == running or self._age_s(name, now) > _SETTLED_S]
        for start in range(0, len(due), _BUCKETS_AT_ONCE):
            part = due[start : start + _BUCKETS_AT_ONCE]

            def commands(pipeline: Pipeline, part: list[str] = part) -> None:
                for name in part:
                    pipeline.zrevrange(self._keys.popular(name), 0, _RANKED_ITEMS - 1, withscores=True)

            for name, rows in zip(part, await self._cache.execute("popular", commands), strict=True):
                counts = {item_id.decode(errors="replace"): float(events) for item_id, events in rows}
                self._buckets[name] = _Bucket(counts, now)
        read = [(self._buckets[name], share) for name, share in names]
        wanted = {name for other in _SPANS for name, _ in buckets_of(other, now)}
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in wanted}
        return read

    def _age_s(self, name: str, now: float) -> float:
        """Age of what is known of a bucket; forever when it was read before it was over."""
        bucket = self._buckets.get(name)
        over_at = (int(name[1:]) + 1) * _UNIT_S[name[0]]
        # Counts of its last moments are written up to a few seconds later.
        return now - bucket.read_at if bucket is not None and bucket.read_at > over_at + RENEW_S else float("inf")


def _ranked(model: ServedModel, counts: dict[str, float]) -> PopularItems:
    events = np.zeros(len(model.catalog), dtype=np.float32)
    for item_id, count in counts.items():
        if item_id in model.catalog:
            events[model.catalog.index_of(item_id)] = count
    return PopularItems(events, only_with_events=True)
