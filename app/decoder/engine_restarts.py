"""Versions whose engine has died, loaded again in the background: at once, then with growing pauses."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.decoder.backoff import Backoff
from app.decoder.metrics import DecoderMetrics
from app.decoder.version_errors import VersionMissing, VersionUnusable
from app.structured_logging import FIELDS

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Restart:
    trouble: str
    task: asyncio.Task[None] | None = None


class EngineRestarts:
    """Brings versions back.

    Args:
        load: loads a version, or raises `VersionUnusable`.
        still_wanted: whether there is room for one more version. Where others have taken its place meanwhile, it is
            left to whoever asks for it next.
        metrics: what is counted.
    """

    def __init__(
        self,
        load: Callable[[str], Awaitable[object]],
        still_wanted: Callable[[], bool],
        metrics: DecoderMetrics,
    ) -> None:
        self._load = load
        self._still_wanted = still_wanted
        self._metrics = metrics
        self._restarts: dict[str, _Restart] = {}
        # Kept beyond a restart: an engine that dies again and again must not be loaded again and again without a pause.
        self._backoffs: dict[str, Backoff] = {}

    @property
    def troubles(self) -> dict[str, str]:
        """What to tell about each version that is being brought back."""
        return {version: restart.trouble for version, restart in self._restarts.items()}

    def begin(self, version: str, lived_s: float) -> None:
        """Bring a version back whose engine lived that long."""
        backoff = self._backoffs.setdefault(version, Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, at_once=True))
        pause_s = backoff.pause_s(lived_s)
        _logger.error("the engine died", extra={FIELDS: {"version": version, "restart_in_s": round(pause_s, 1)}})
        restart = _Restart(f"{version}: its engine's process ended; it is being started again")
        bringing_back = self._bring_back(version, restart, backoff, pause_s)
        restart.task = asyncio.create_task(bringing_back, name=f"restart-{version}")
        self._restarts[version] = restart

    async def close(self) -> None:
        """Give up."""
        tasks = [restart.task for restart in self._restarts.values() if restart.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring_back(self, version: str, restart: _Restart, backoff: Backoff, pause_s: float) -> None:
        try:
            while True:
                await asyncio.sleep(pause_s)
                if not self._still_wanted():
                    return
                try:
                    await self._load(version)
                except VersionMissing:
                    return
                except VersionUnusable as error:
                    self._metrics.engine_restarts.labels("failed").inc()
                    pause_s = backoff.pause_s()
                    self._restarts[
                        version
                    ].trouble = f"{version}: its engine's process ended and could not be started again: {error}"
                else:
                    self._metrics.engine_restarts.labels("ok").inc()
                    return
        finally:
            # Back, it may have died again already, and another restart begun.
            if self._restarts.get(version) is restart:
                del self._restarts[version]
