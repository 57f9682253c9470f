"""How often one caller may ask: a token bucket for each, in the memory of one worker."""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import monotonic

MAX_CALLERS = 10_000


class RateLimit:
    """Token buckets, the least recently used dropped beyond `MAX_CALLERS`; a dropped caller begins with a full one.

    Args:
        rate: requests per second of one caller, of all workers together; 0 for no limit.
        burst: requests that may come at once; None for those of one second.
        workers: processes that share the callers' requests. Each allows its part.
        clock: seconds.
    """

    def __init__(
        self, rate: float, burst: int | None = None, workers: int = 1, clock: Callable[[], float] = monotonic
    ) -> None:
        self.rate = rate
        self._burst = burst
        self._workers = workers
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: Hashable, rate: float | None = None) -> float:
        """Count one request.

        Args:
            caller: who asks.
            rate: of this caller, in place of everybody's; 0 for no limit.

        Returns:
            0 if it may be answered, else the seconds after which one would be.
        """
        allowed = self.rate if rate is None else rate
        if not allowed:
            return 0
        per_second = allowed / self._workers
        size = self.size(rate)
        now = self._clock()
        tokens, then = self._buckets.get(caller, (size, now))
        tokens = min(size, tokens + (now - then) * per_second)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / per_second
        self._buckets[caller] = (tokens if wait else tokens - 1, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return wait

    def size(self, rate: float | None = None) -> float:
        """Requests that one worker answers at once."""
        burst = (self.rate if rate is None else rate) if self._burst is None else self._burst
        return max(1.0, math.ceil(burst / self._workers))
