"""What Redis has of one user, as it is there and unpacked."""

from dataclasses import dataclass
from typing import NamedTuple

from model_store.cache_entries import CacheEntry


class StoredUser(NamedTuple):
    """What Redis has of one user, as it is there.

    Attributes:
        packed: the entry of the version asked for, None when there is none.
        history: item ids, oldest first.
        withheld: ids of the items that must not be shown beside these: blocked, or read.
    """

    packed: bytes | None
    history: list[bytes]
    withheld: list[bytes]


@dataclass(frozen=True, slots=True)
class UserState:
    """What is known of one user.

    Attributes:
        entry: the decoded list of the version asked for, None when there is none that can be read.
        history: item ids, oldest first.
        dirty: whether the entry was decoded from another history: events have come since.
        withheld: item ids that must not be shown beside the history: blocked, or read.
    """

    entry: CacheEntry | None = None
    history: tuple[str, ...] = ()
    dirty: bool = False
    withheld: tuple[str, ...] = ()

    def age_s(self, now: float) -> float:
        """Age of the entry at a time in Unix seconds; 0 without one."""
        return max(now - self.entry.decoded_at, 0.0) if self.entry is not None else 0.0

    def outdated(self, now: float, max_age_s: float) -> bool:
        """Whether there is no entry, or one too old or without the user's latest events."""
        return self.entry is None or self.dirty or self.age_s(now) > max_age_s
