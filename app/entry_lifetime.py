"""Entries of a version that is served do not expire, however long nobody refreshes them.

Every bucket has an expiry, so that the entries of versions nobody serves any more go away by themselves. Whoever serves
a version puts its buckets' expiry off long before it comes, and stops doing so when another version takes over.
"""

import asyncio
from contextlib import suppress

from app.active_version import ActiveVersion
from app.recommendation_cache import CacheUnavailable, RecommendationCache

_LOOK_S = 60.0


class EntryLifetime:
    """Keeps the entries of the served version."""

    def __init__(self, active: ActiveVersion, cache: RecommendationCache) -> None:
        self._active = active
        self._cache = cache

    async def run(self) -> None:
        """Do so until cancelled."""
        while True:
            # A failure is counted where it was raised; the entries have most of their lifetime left.
            with suppress(CacheUnavailable):
                await self._cache.put_off_expiry(self._active.served.entry_layout)
            await asyncio.sleep(_LOOK_S)
