"""How long to wait before what has ended is started again."""

import random
from collections.abc import Callable

_JITTER = 0.25


class Backoff:
    """Pauses that double with every failure, and begin anew after something has lived for long.

    Args:
        first_s: the first pause.
        longest_s: no pause is longer; what has lived longer than this counts as healthy.
        at_once: no pause at all after the first failure; `first_s` comes after the second.
        chance: uniform numbers from 0 to 1. Each pause is shortened by up to a quarter, so that several processes that
            fell together do not rise together.
    """

    def __init__(
        self, first_s: float, longest_s: float, *, at_once: bool = False, chance: Callable[[], float] = random.random
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._at_once = at_once
        self._chance = chance
        self._failures = 0

    def pause_s(self, lived_s: float = 0.0) -> float:
        """How long to wait now; `lived_s` is how long it had worked before it failed this time."""
        if lived_s > self._longest_s:
            self._failures = 0
        doublings = self._failures - (1 if self._at_once else 0)
        self._failures += 1
        if doublings < 0:
            return 0.0
        # Beyond any pause, and still a number that a float holds.
        whole_s = min(self._first_s * float(1 << min(doublings, 60)), self._longest_s)
        return whole_s - whole_s * _JITTER * self._chance()
