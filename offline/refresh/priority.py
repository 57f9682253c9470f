"""How much it is worth to refresh a user: activity x age x loss.

activity   1 + answers the user got without a fresh entry since the last decode (`Keys.demand`)
age        of the entry in units of the allowed age, between AGE_FLOOR and NO_ENTRY_AGE
loss       share of the list that is out of date, as far as that can be told without a decode

A user with nothing to gain has priority 0. The constants only order users: doubling all priorities changes nothing.

Shapes: U users, K items of an entry.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.cache_entries import EntryTable

AGE_FLOOR = 0.5
"""News and hidden items spoil an entry of a minute too. With this floor they come before an entry that is merely old
until that one is 2.5 times the allowed age."""
NO_ENTRY_AGE = 10.0
"""Who has no entry comes before everyone as active who has one: no entry counts as older than this."""
NEWS_LOSS = 0.5
"""At least, for a user with news: the newest events say most of the next one, and may be of items in the list."""
AGE_LOSS = 0.1
"""At least, for an entry that is only old, or that was asked for and not found fresh: its items are still good."""

REASONS = ("no_entry", "news", "short", "age", "demand")
"""Why a user is worth a refresh; of several reasons the first."""


@dataclass(frozen=True)
class PriorityRule:
    """When an entry is out of date.

    Attributes:
        max_age_s: age from which an entry is too old.
        need: items that can still be shown which an entry should have; less if it never had so many.
    """

    max_age_s: int
    need: int = 10


@dataclass(frozen=True)
class Worth:
    """What a refresh of U users is worth.

    Attributes:
        priorities: float32 [U], 0 where there is nothing to gain.
        reasons: uint8 [U], an index into REASONS; of no meaning where the priority is 0.
    """

    priorities: NDArray[np.float32]
    reasons: NDArray[np.uint8]


class Priorities:
    """Weighs the entries of one version.

    Args:
        bundle: the version.
        rule: when an entry is out of date.
        shown: which of its items may be shown; bool [N].
    """

    def __init__(self, bundle: Bundle, rule: PriorityRule, shown: NDArray[np.bool_]) -> None:
        self._codes, self._shown, self._rule = bundle.item_codes, shown, rule

    def weigh(self, entries: EntryTable, news: NDArray[np.bool_], demand: NDArray[np.float64], now: float) -> Worth:
        """What a refresh of these users is worth.

        Args:
            entries: of each user; an unreadable one counts as none.
            news: bool [U], whether events came since the decode.
            demand: float64 [U], answers without a fresh entry since the decode.
            now: Unix seconds.
        """
        none = ~entries.readable
        old_s = now - entries.decoded_at
        lost = self._lost(entries)
        # In the order of REASONS, so that the first that holds is the reason.
        holds = np.stack([none, news, lost > 0, old_s > self._rule.max_age_s, demand > 0])
        losses = np.stack(
            [
                np.where(none, 1.0, 0.0),
                np.where(news, NEWS_LOSS, 0.0),
                lost / self._rule.need,
                np.full(len(lost), AGE_LOSS),
            ]
        )
        age = np.where(none, NO_ENTRY_AGE, np.clip(old_s / max(self._rule.max_age_s, 1), AGE_FLOOR, NO_ENTRY_AGE))
        priorities = np.where(holds.any(axis=0), (1 + demand) * age * losses.max(axis=0), 0.0)
        return Worth(priorities.astype(np.float32), holds.argmax(axis=0).astype(np.uint8))

    def _lost(self, entries: EntryTable) -> NDArray[np.int64]:
        """Items that an entry had among those needed, and which can no longer be shown; int64 [U].

        Hidden, deleted and unknown items count, and those out of stock. What the user has seen meanwhile is news, and
        counts as that.
        """
        users, most, levels = entries.codes_UKL.shape
        items_UK = self._codes.items_of(entries.codes_UKL.reshape(users * most, levels)).reshape(users, most)
        within_UK = np.arange(most) < entries.counts[:, None]
        left = np.count_nonzero(within_UK & (items_UK >= 0) & self._shown[items_UK], axis=1)
        lost: NDArray[np.int64] = np.maximum(np.minimum(entries.counts, self._rule.need) - left, 0)
        return lost
