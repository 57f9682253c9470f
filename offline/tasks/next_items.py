"""Training histories, seen from each item that has others before it.

An event is a position in the histories laid end to end. Shapes: E events, K events that have one before them.
"""

import numpy as np
from numpy.typing import NDArray

from offline.leave_one_out import Histories


class NextItems:
    """Looks histories up by the event that comes next.

    Attributes:
        events: int64 [K]; events with at least one before them in their history.
        users: int64 [K]; whose they are.
        items: int32 [E]; by event.
    """

    def __init__(self, histories: Histories) -> None:
        self._offsets = histories.offsets
        self.items = histories.items
        has_one_before = np.ones(len(self.items), dtype=np.bool_)
        has_one_before[self._offsets[:-1][np.diff(self._offsets) > 0]] = False
        self.events: NDArray[np.int64] = np.flatnonzero(has_one_before)
        self.users = self._user_of(self.events)
        before = self.items[self.events - 1]
        order = np.argsort(before, kind="stable")
        self._items_before, self._items_after = before[order], self.items[self.events[order]]

    def user(self, event: int) -> int:
        """The user of an event."""
        return int(self._user_of(event))

    def before(self, event: int) -> NDArray[np.int32]:
        """The history that an event continues."""
        return self.items[self._offsets[self.user(event)] : event]

    def since(self, event: int) -> NDArray[np.int32]:
        """The event's item and its user's later ones."""
        return self.items[event : self._offsets[self.user(event) + 1]]

    def all_of(self, user: int) -> NDArray[np.int32]:
        """A whole training history."""
        return self.items[self._offsets[user] : self._offsets[user + 1]]

    def after(self, item: int, count: int, rng: np.random.Generator) -> list[int]:
        """Up to `count` distinct items that somebody took right after this one, by how often, at random."""
        begin, end = np.searchsorted(self._items_before, [item, item + 1]).tolist()
        picks = begin + (rng.random(count) * (end - begin)).astype(np.int64)
        return list(dict.fromkeys(self._items_after[picks].tolist())) if end > begin else []

    def _user_of(self, event: int | NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(np.searchsorted(self._offsets, event, side="right") - 1)
