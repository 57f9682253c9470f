"""Users with news are decoded again once they have been quiet for a moment: one refresh for a burst of events.

A user who is never quiet is refreshed all the same, a few quiet times after the first event.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from app.background_refresh import BackgroundRefresh
from app.settings import Settings
from app.telemetry import Telemetry

_LONGEST_WAIT = 5
"""Quiet times from the first event to the refresh, at most."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    first_s: float
    timer: asyncio.TimerHandle


class EventRefresh:
    """Puts off what events ask of a BackgroundRefresh. Belongs to one event loop.

    Bounded like the queue behind it. A user who is dropped stays dirty: the next stale answer asks again.
    """

    def __init__(self, refresh: BackgroundRefresh, settings: Settings, telemetry: Telemetry) -> None:
        self._refresh = refresh
        self._quiet_s = settings.event_refresh_debounce_ms / 1000
        self._most = settings.refresh_queue
        self._telemetry = telemetry
        self._waiting: dict[str, _Waiting] = {}

    def noticed(self, user_ids: Iterable[str]) -> None:
        """Ask for a refresh of users whose events were recorded just now; returns at once."""
        if not self._refresh.possible:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for user_id in dict.fromkeys(user_ids):
            before = self._waiting.get(user_id)
            if before is not None:
                before.timer.cancel()
            elif len(self._waiting) >= self._most:
                self._telemetry.refreshes.labels("dropped").inc()
                continue
            first_s = now if before is None else before.first_s
            due_s = min(now + self._quiet_s, first_s + _LONGEST_WAIT * self._quiet_s)
            self._waiting[user_id] = _Waiting(first_s, loop.call_at(due_s, self._request, user_id))

    def forget(self, user_id: str) -> None:
        """Drop what is put off for a user."""
        waiting = self._waiting.pop(user_id, None)
        if waiting is not None:
            waiting.timer.cancel()

    def close(self) -> None:
        """Drop what is still put off."""
        for waiting in self._waiting.values():
            waiting.timer.cancel()
        self._waiting.clear()

    def _request(self, user_id: str) -> None:
        del self._waiting[user_id]
        self._refresh.request(user_id)
