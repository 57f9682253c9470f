"""Ids of answers: 12 random bytes as hex, of which answers of the same moment and process share the first half.

So one hash in Redis holds some hundred answers, and an id tells which (`Keys.answers`).
"""

from time import monotonic

from app.random_ids import RandomIds

BATCH_DIGITS = 12
"""Hex digits that say in which hash an answer is."""
_HALF_BYTES = BATCH_DIGITS // 2
_MOST = 256
_LONGEST_S = 1.0


class RecommendationIds:
    """Makes ids; for one thread."""

    def __init__(self) -> None:
        self._halves = RandomIds(_HALF_BYTES)
        self._batch = ""
        self._left = 0
        self._until = 0.0

    def next(self) -> str:
        """A new id."""
        now = monotonic()
        if not self._left or now > self._until:
            self._batch, self._left, self._until = self._halves.next(), _MOST, now + _LONGEST_S
        self._left -= 1
        return self._batch + self._halves.next()


next_recommendation_id = RecommendationIds().next
"""The ids of this process."""
