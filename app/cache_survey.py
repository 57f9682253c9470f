"""How much of the served version is cached and how old it is: looked at now and then by one worker, kept for all.

Users who have an entry are counted by bucket. The rest is that of a sample of users with a history: every one where
Redis holds few keys, else random keys, so that no look takes longer because there are more users.
"""

import asyncio
import logging
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import orjson
from redis.asyncio import RedisCluster
from redis.asyncio.client import Pipeline

from app.active_version import ActiveVersion
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.redis_connection import RedisClient
from model_store.cache_entries import EntryTable
from model_store.cache_keys import EntryLayout

SURVEY_EVERY_S = 60
_LOOK_S = 5.0
_KEPT_S = 10 * SURVEY_EVERY_S
_FEW_KEYS = 20_000
_SAMPLE = 500
_BUCKETS_COUNTED = 4096
_BUCKETS_A_CALL = 256
_USERS_A_CALL = 250
_EXAMPLES = 5
_HOUR_S, _DAY_S = 3600, 86_400
AGE_BOUNDS_S = (_HOUR_S, 6 * _HOUR_S, _DAY_S, 3 * _DAY_S, 7 * _DAY_S)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgeShare:
    """Entries of an age.

    Attributes:
        up_to_s: upper bound in seconds, None for the oldest; the lower one is that of the age before.
        share: of the entries looked at.
    """

    up_to_s: int | None
    share: float


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        cache_version: whose entries.
        measured_at: Unix seconds.
        entries: users with an entry.
        histories: users with a history.
        coverage: share of the latter who are among the former; None without any.
        entries_estimated, histories_estimated: whether these are reckoned from a part.
        sampled: users with a history who were looked at: what coverage, ages and examples come from.
        median_age_s: of their entries; None without any.
        ages: of their entries, youngest first.
        examples: a few of them, to try things with.
    """

    cache_version: str
    measured_at: int
    entries: int
    histories: int
    coverage: float | None
    entries_estimated: bool
    histories_estimated: bool
    sampled: int
    median_age_s: int | None
    ages: list[AgeShare]
    examples: list[str]


class CacheSurvey:
    """Looks at the cache of the served version, in turns with the other workers.

    Args:
        active: tells the version.
        cache: is looked at.
        every_s: seconds from one look to the next, whoever takes it.
    """

    def __init__(self, active: ActiveVersion, cache: RecommendationCache, every_s: int = SURVEY_EVERY_S) -> None:
        self._active = active
        self._cache = cache
        self._every_s = every_s

    async def run(self) -> None:
        """Look whenever it is time, until cancelled."""
        while True:
            try:
                await self.look()
            except CacheUnavailable as error:
                _logger.warning("the cache could not be looked at: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Look now, unless somebody has in the last `every_s` seconds.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        layout = self._active.served.entry_layout
        keys = self._cache.keys
        turn = keys.survey_turn(layout.cache_version)
        (ours,) = await self._cache.execute("survey", lambda p: p.set(turn, "", nx=True, ex=self._every_s))
        if ours:
            found = orjson.dumps(asdict(await survey(self._cache, layout)))
            key = keys.survey(layout.cache_version)
            await self._cache.execute("survey", lambda p: p.set(key, found, ex=_KEPT_S))

    async def latest(self) -> dict[str, Any] | None:
        """The fields of the latest Survey of the served version; None before the first, or when all are old.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        key = self._cache.keys.survey(self._active.served.entry_layout.cache_version)
        (found,) = await self._cache.execute("survey", lambda p: p.get(key))
        return cast("dict[str, Any]", orjson.loads(found)) if found else None


async def count_entries(cache: RecommendationCache, layout: EntryLayout) -> tuple[int, bool]:
    """How many users have an entry, and whether that is an estimate: of a version with very many buckets.

    Raises:
        CacheUnavailable: Redis did not answer in time.
    """
    counted = range(0, layout.buckets, -(-layout.buckets // _BUCKETS_COUNTED))
    users = 0
    for start in range(0, len(counted), _BUCKETS_A_CALL):
        numbers = counted[start : start + _BUCKETS_A_CALL]

        def commands(pipeline: Pipeline, numbers: range = numbers) -> None:
            for number in numbers:
                pipeline.hlen(cache.keys.bucket(layout, number))

        users += sum(await cache.execute("survey", commands))
    return round(users * layout.buckets / len(counted)), len(counted) < layout.buckets


async def survey(cache: RecommendationCache, layout: EntryLayout) -> Survey:
    """Look at the cache of one version.

    Raises:
        CacheUnavailable: Redis did not answer in time.
    """
    entries, entries_estimated = await count_entries(cache, layout)
    async with cache.attempt("survey") as client:
        keys_held = await client.dbsize()
    if keys_held <= _FEW_KEYS:
        users, histories, estimated = await _every_user(cache)
    else:
        users, histories, estimated = await _random_users(cache, keys_held)
    packed: list[bytes] = []
    for start in range(0, len(users), _USERS_A_CALL):
        some = users[start : start + _USERS_A_CALL]

        def commands(pipeline: Pipeline, some: list[str] = some) -> None:
            for user in some:
                pipeline.hget(cache.keys.bucket_of(layout, user), user)

        packed += [value for value in await cache.execute("survey", commands) if value is not None]
    table = EntryTable.unpack(packed)
    now = int(time.time())
    ages = np.maximum(now - table.decoded_at[table.readable], 0)
    bounds = (0, *AGE_BOUNDS_S, np.inf)
    shares = [
        AgeShare(None if upper == np.inf else int(upper), round(float(((ages >= lower) & (ages < upper)).mean()), 4))
        for lower, upper in pairwise(bounds)
        if len(ages)
    ]
    return Survey(
        cache_version=layout.cache_version,
        measured_at=now,
        entries=entries,
        histories=histories,
        coverage=round(len(packed) / len(users), 4) if users else None,
        entries_estimated=entries_estimated,
        histories_estimated=estimated,
        sampled=len(users),
        median_age_s=int(np.median(ages)) if len(ages) else None,
        ages=shares,
        examples=sorted(users[:: max(len(users) // _EXAMPLES, 1)][:_EXAMPLES]),
    )


async def _every_user(cache: RecommendationCache) -> tuple[list[str], int, bool]:
    """Some of the users with a history, how many there are, and that this is no estimate."""
    keys = cache.keys

    async with cache.attempt("survey") as client:
        scanned = [key async for key in client.scan_iter(keys.histories(), count=2000)]
    found = sorted({key.decode(errors="replace") for key in scanned})
    users = [keys.user_of_history(key) for key in found]
    step = max(len(users) // _SAMPLE, 1)
    return users[::step][:_SAMPLE], len(users), False


async def _random_users(cache: RecommendationCache, keys_held: int) -> tuple[list[str], int, bool]:
    """The same from random keys, among `keys_held`; how many there are is an estimate."""
    keys = cache.keys
    prefix = keys.history("")
    asked = 2 * _SAMPLE

    async def draw(client: RedisClient) -> list[bytes | None]:
        if isinstance(client, RedisCluster):
            # Any master; slots are spread over them evenly.
            return cast("list[bytes | None]", [await client.randomkey() for _ in range(_SAMPLE // 5)])
        pipeline = client.pipeline(transaction=False)
        for _ in range(asked):
            pipeline.randomkey()
        return cast("list[bytes | None]", await pipeline.execute())

    async with cache.attempt("survey") as client:
        drawn = [key.decode(errors="replace") for key in await draw(client) if key is not None]
    users = [keys.user_of_history(key) for key in drawn if key.startswith(prefix)]
    share = len(users) / len(drawn) if drawn else 0.0
    return users[:_SAMPLE], round(share * keys_held), True
