"""Items that a user is not shown beside those of the history: blocked by hand, or read (`Keys.withheld`)."""

from collections.abc import Collection, Iterable

from pydantic import BaseModel, Field
from redis.asyncio.client import Pipeline

from app.event_problems import TooManyBlocks
from app.recommendation_cache import RecommendationCache
from app.schemas import Asked, Id
from app.settings import Settings

MAX_BLOCKS = 1000
"""Items that one user can have blocked."""
_BLOCKED = 0
_FIRST_S = 1.0
"""The earliest time a read can have: what is below it counts as blocked."""


class BlocksChange(Asked):
    """Items to block and to unblock; one that is in both is blocked."""

    block: tuple[Id, ...] = Field(default=(), max_length=MAX_BLOCKS)
    unblock: tuple[Id, ...] = Field(default=(), max_length=MAX_BLOCKS)


class Blocks(BaseModel):
    """What a user is never shown."""

    user_id: str
    items: list[str] = Field(description="blocked item ids, in their alphabet's order")
    unknown: list[str] = Field(description="those of them that the served catalogue does not have")


class WithheldItems:
    """Reads and writes these sets."""

    def __init__(self, cache: RecommendationCache, settings: Settings) -> None:
        self._cache = cache
        self._keys = cache.keys
        self._most_reads = settings.withheld_items
        self._lifetime_s = settings.history_ttl_s

    async def blocked(self, user_id: str) -> list[str]:
        """Item ids that are blocked.

        Raises:
            CacheUnavailable: Redis did not answer in time.
        """
        key = self._keys.withheld(user_id)
        (items,) = await self._cache.execute("blocks", lambda p: p.zrangebyscore(key, _BLOCKED, _BLOCKED))
        return [item.decode(errors="replace") for item in items]

    async def change_blocks(self, user_id: str, block: Collection[str], unblock: Iterable[str]) -> list[str]:
        """Block and unblock items; gives all that are blocked then. What was read stays withheld.

        Raises:
            CacheUnavailable: perhaps none, perhaps a part was done; sending it again is harmless.
            TooManyBlocks: it would be more than MAX_BLOCKS; nothing was done.
        """
        before = set(await self.blocked(user_id))
        removed = before.intersection(unblock).difference(block)
        after = (before | set(block)) - removed
        if len(after) > MAX_BLOCKS:
            raise TooManyBlocks
        key = self._keys.withheld(user_id)

        def commands(pipeline: Pipeline) -> None:
            if removed:
                pipeline.zrem(key, *removed)
            if block:
                pipeline.zadd(key, dict.fromkeys(block, _BLOCKED))
            pipeline.expire(key, self._lifetime_s)

        await self._cache.execute("blocks", commands)
        return sorted(after)

    async def withhold(self, reads: Iterable[tuple[str, str, float]]) -> None:
        """Withhold items that were read: of each user the newest `TESSERA_WITHHELD_ITEMS`.

        Args:
            reads: user id, item id and the Unix time from which. Of several for one item the earliest holds, and a
                block stays one.

        Raises:
            CacheUnavailable: perhaps none, perhaps a part was done; doing it again is harmless.
        """
        of_user: dict[str, dict[str, float]] = {}
        for user_id, item_id, from_s in reads:
            items = of_user.setdefault(user_id, {})
            items[item_id] = max(min(from_s, items.get(item_id, from_s)), _FIRST_S)
        if not of_user:
            return

        def commands(pipeline: Pipeline) -> None:
            for user_id, items in of_user.items():
                key = self._keys.withheld(user_id)
                pipeline.zadd(key, items, lt=True)
                pipeline.expire(key, self._lifetime_s)
                # The newest of those that are too many.
                pipeline.zrevrange(key, self._most_reads, self._most_reads, withscores=True)

        found = await self._cache.execute("withhold", commands)
        too_many = {
            user_id: over[0][1] for user_id, over in zip(of_user, found[2::3], strict=True) if over and over[0][1]
        }
        if not too_many:
            return

        def trim(pipeline: Pipeline) -> None:
            for user_id, newest in too_many.items():
                pipeline.zremrangebyscore(self._keys.withheld(user_id), f"({_BLOCKED}", newest)

        await self._cache.execute("withhold", trim)
