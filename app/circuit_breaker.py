"""Stop asking a dependency that keeps failing, and find out cheaply when it is back."""

import logging
import time
from collections.abc import Callable

from app.structured_logging import FIELDS

_logger = logging.getLogger(__name__)


class CircuitBreaker:
    """Opens after several failures in a row; then lets one trial through per pause, and closes when a trial succeeds.

    Not thread-safe: made for one event loop.

    Args:
        name: what the log calls the dependency: one line when it opens, one when it closes.
        failures_to_open: failures in a row that open it.
        first_pause_s: how long it stays open the first time.
        longest_pause_s: every failed trial doubles the pause up to this.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        failures_to_open: int = 5,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._failures_to_open = failures_to_open
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._failures = 0
        self._pause_s = first_pause_s
        self._next_trial: float | None = None
        self._opened_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are being refused, trials apart."""
        return self._next_trial is not None

    def allows(self) -> bool:
        """Tell whether a call may be made now. Whoever is told yes makes it and reports how it went."""
        if self._next_trial is None:
            return True
        now = self._clock()
        if now < self._next_trial:
            return False
        # A trial that never reports (its caller was cancelled) must not block the next one for ever.
        self._next_trial = now + self._pause_s
        return True

    def succeeded(self) -> None:
        """Report a call that the dependency answered."""
        if self._next_trial is not None:
            fields = {"dependency": self._name, "after_s": round(self._clock() - self._opened_at, 1)}
            _logger.warning("a dependency answers again", extra={FIELDS: fields})
        self._failures = 0
        self._pause_s = self._first_pause_s
        self._next_trial = None

    def failed(self) -> None:
        """Report a call that it did not answer."""
        self._failures += 1
        if self._next_trial is not None:
            self._pause_s = min(self._pause_s * 2, self._longest_pause_s)
        if self._failures >= self._failures_to_open:
            if self._next_trial is None:
                self._opened_at = self._clock()
                fields = {"dependency": self._name, "failures": self._failures}
                _logger.error("a dependency does not answer and is left alone for a while", extra={FIELDS: fields})
            self._next_trial = self._clock() + self._pause_s
