"""How this worker is: memory, files, the lag of its event loop, its connections, what it serves."""

import asyncio
import os
import resource
import sys
import time
from pathlib import Path

from app.active_version import ActiveVersion
from app.live_decoding import LiveDecoding
from app.process_metrics import ProcessGauges
from app.recommendation_cache import RecommendationCache
from app.settings import Settings

_PAUSE_S = 0.5
_PROC = Path("/proc/self")


class ProcessWatch:
    """Keeps the gauges of one worker true."""

    def __init__(
        self,
        gauges: ProcessGauges,
        active: ActiveVersion,
        cache: RecommendationCache,
        live: LiveDecoding,
        settings: Settings,
    ) -> None:
        self._max_age_s = settings.cache_max_age_s
        self._gauges = gauges
        self._active = active
        self._cache = cache
        self._live = live
        self._version: str | None = None
        self._cpu_seconds = 0.0

    async def run(self) -> None:
        """Look twice a second until cancelled."""
        self._gauges.workers.set(1)
        self._gauges.started.set(time.time())
        self._gauges.cache_max_age_seconds.set(self._max_age_s)
        while True:
            self._look()
            asked = time.perf_counter() + _PAUSE_S
            await asyncio.sleep(_PAUSE_S)
            self._gauges.lag_seconds.observe(max(time.perf_counter() - asked, 0.0))

    def _look(self) -> None:
        gauges = self._gauges
        gauges.memory.set(_resident_bytes())
        cpu_seconds = time.process_time()
        gauges.cpu_seconds.inc(cpu_seconds - self._cpu_seconds)
        self._cpu_seconds = cpu_seconds
        if _PROC.exists():
            gauges.files.set(len(os.listdir(_PROC / "fd")))
        used, idle = self._cache.connections()
        gauges.redis_connections.labels("used").set(used)
        gauges.redis_connections.labels("idle").set(idle)
        gauges.breaker_open.labels("redis").set(self._cache.breaker_open)
        gauges.breaker_open.labels("decoder").set(self._live.breaker_open)
        version = self._active.served.version
        if version != self._version:
            if self._version is not None:
                gauges.served.labels(self._version).set(0)
            gauges.served.labels(version).set(1)
            self._version = version


def _resident_bytes() -> int:
    if _PROC.exists():
        return int((_PROC / "statm").read_text().split()[1]) * resource.getpagesize()
    # Without /proc the most there has been is what can be known; macOS counts bytes, others kilobytes.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
