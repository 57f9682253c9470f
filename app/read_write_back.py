"""What was shown, written back as read where a request asks for it: behind the answer, never in its way."""

import asyncio
from collections.abc import Iterable

from app.recommendation_cache import CacheUnavailable
from app.telemetry import Telemetry
from app.withheld_items import WithheldItems

MAX_WAITING = 5000
"""Answers of one worker that may wait to be written back."""
_AT_ONCE = 100

Shown = tuple[str, tuple[str, ...], float]


class ReadWriteBack:
    """A bounded queue of answers and the task that works it off, as many in one round trip as have come meanwhile.

    What does not fit, or Redis does not take, is dropped and counted: those items may be shown again.
    """

    def __init__(self, withheld: WithheldItems, telemetry: Telemetry) -> None:
        self._withheld = withheld
        self._telemetry = telemetry
        self._waiting: list[Shown] = []
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()

    def shown(self, user_id: str, item_ids: Iterable[str], from_s: float) -> None:
        """Note what was shown; it is withheld from `from_s` on, Unix seconds. Returns at once."""
        if len(self._waiting) >= MAX_WAITING:
            self._telemetry.write_back_dropped.labels("full").inc()
            return
        self._waiting.append((user_id, tuple(item_ids), from_s))
        self._some.set()

    async def run(self) -> None:
        """Write what comes until cancelled."""
        while True:
            await self._some.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits, or drop it where Redis does not take it."""
        async with self._writing:
            while self._waiting:
                batch, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                try:
                    await self._withheld.withhold(
                        (user_id, item_id, from_s) for user_id, item_ids, from_s in batch for item_id in item_ids
                    )
                except CacheUnavailable:
                    self._telemetry.write_back_dropped.labels("redis").inc(len(batch))
            self._some.clear()

    async def forget(self, user_id: str) -> None:
        """Drop what waits of a user; what is on its way is in Redis, or lost, when this returns."""
        async with self._writing:
            self._waiting = [one for one in self._waiting if one[0] != user_id]
