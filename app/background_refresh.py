"""Refreshes of single users, after a stale answer or news: soon, one after another, never in the way of a request."""

import asyncio
import time

from app.active_version import ActiveVersion
from app.entry_decoding import EntryDecoding
from app.live_decoding import LiveDecoding, LiveDecodingUnavailable
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.settings import Settings
from app.telemetry import Telemetry


class BackgroundRefresh:
    """A bounded queue of users and the task that works it off.

    A user who is dropped, or whose refresh fails, stays dirty: the next stale answer asks again.
    """

    def __init__(
        self,
        active: ActiveVersion,
        cache: RecommendationCache,
        live: LiveDecoding,
        entries: EntryDecoding,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._active = active
        self._cache = cache
        self._live = live
        self._entries = entries
        self._deadline_ms = settings.refresh_deadline_ms
        self._max_age_s = settings.cache_max_age_s
        self._telemetry = telemetry
        self._queue: asyncio.Queue[str] = asyncio.Queue(settings.refresh_queue)
        self._waiting: set[str] = set()

    @property
    def possible(self) -> bool:
        """Whether there is a decoder in this deployment."""
        return self._live.configured

    def request(self, user_id: str) -> None:
        """Ask for a refresh; returns at once. Where none is possible there is nothing to ask."""
        if not self.possible or user_id in self._waiting:
            return
        try:
            self._queue.put_nowait(user_id)
        except asyncio.QueueFull:
            self._telemetry.refreshes.labels("dropped").inc()
            return
        self._waiting.add(user_id)
        self._telemetry.refresh_queue.inc()

    async def run(self) -> None:
        """Work the queue off until cancelled."""
        while True:
            user_id = await self._queue.get()
            # Out before the work: an event that arrives during it is worth another refresh.
            self._waiting.discard(user_id)
            self._telemetry.refresh_queue.dec()
            try:
                outcome = await self._refresh(user_id)
            except CacheUnavailable:
                outcome = "cache_unavailable"
            except LiveDecodingUnavailable as error:
                outcome = error.reason
            self._telemetry.refreshes.labels(outcome).inc()

    async def _refresh(self, user_id: str) -> str:
        model = self._active.served
        started_at = time.time()
        state = await self._cache.read(model.entry_layout, user_id)
        if not state.outdated(started_at, self._max_age_s):
            # A request or another worker has been faster.
            return "not_needed"
        history = model.indices_of(state.history)
        if not history:
            return "no_history"
        withheld = model.indices_of(state.withheld)
        answer = await self._entries.decode(model, history, withheld, 1, self._deadline_ms)
        await self._entries.keep(model, user_id, state.history, answer, started_at)
        return "done"
