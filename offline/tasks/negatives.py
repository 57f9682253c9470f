"""Items that a user did not take, as wrong answers: some at random, some that look like the right one.

An item that a user took at any time, held-out items included, is closed to that user. The items a draw may give are a
range of leaves of the prefix trie (all of them, or those below a prefix of the right answer) less the closed ones; the
k-th of these is found by binary search, so a draw costs the same whatever the catalogue's size.

Shapes: N items.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie
from offline.leave_one_out import Histories

_HARD_DEPTHS = 2
"""A hard negative shares the first code, or the first two."""


class NegativeSampler:
    """Draws negatives.

    Args:
        codes: the items' codes.
        train, whole: two histories of each user; what either holds is closed to the user.
        hard_share: share of negatives that share a prefix with the right answer.

    Raises:
        ValueError: the histories are not of as many users.
    """

    def __init__(self, codes: ItemCodes, train: Histories, whole: Histories, hard_share: float) -> None:
        if len(train) != len(whole):
            raise ValueError(f"histories of {len(train)} users to train on and of {len(whole)} to exclude")
        trie = PrefixTrie.build(codes)
        self._items = len(codes)
        self._hard_share = hard_share
        self._leaf_item, self._item_leaf = trie.leaf_item, trie.item_leaf
        above = trie.paths(np.arange(self._items))[:, :_HARD_DEPTHS]
        self._begins, self._ends = trie.leaf_begin[above], trie.leaf_end[above]
        # User and leaf in one number, so that one sort gives every user's closed leaves.
        keys = [
            np.repeat(np.arange(len(histories)), np.diff(histories.offsets)) * self._items
            + trie.item_leaf[histories.items]
            for histories in (train, whole)
        ]
        closed = np.unique(np.concatenate(keys))
        self._closed = (closed % self._items).astype(np.int32)
        self._offsets = np.searchsorted(closed, np.arange(len(train) + 1) * self._items)

    @property
    def open_counts(self) -> NDArray[np.int64]:
        """How many items each user has not taken; int64 [users]."""
        return self._items - np.diff(self._offsets)

    def is_open(self, user: int, item: int) -> bool:
        """Tell whether a user never took an item."""
        closed, leaf = self._closed_leaves(user), self._item_leaf[item]
        at = int(np.searchsorted(closed, leaf))
        return at == len(closed) or bool(closed[at] != leaf)

    def draw(
        self, user: int, positive: int, count: int, rng: np.random.Generator, besides: Sequence[int] = ()
    ) -> list[int]:
        """Distinct items that the user did not take; fewer than `count` only where there are no more.

        Args:
            user: for whom.
            positive: the right answer, which hard negatives resemble.
            count: how many.
            rng: where chance comes from.
            besides: items that are closed too.
        """
        closed: list[int] = self._closed_leaves(user).tolist()
        if besides:
            closed = sorted({*closed, *self._item_leaf[besides].tolist()})
        begins, ends = self._begins[positive].tolist(), self._ends[positive].tolist()
        drawn = []
        for hard, deep, which in rng.random((count, 3)).tolist():
            ranges = [(0, self._items)]
            if hard < self._hard_share:
                ranges += [(begins[0], ends[0])]
                ranges += [(begins[1], ends[1])] if deep < 0.5 else []
            # Narrow ranges first; the wider ones are for when those are empty.
            leaf = next((found for span in reversed(ranges) if (found := _open_leaf(closed, *span, which)) >= 0), -1)
            if leaf < 0:
                break
            insort(closed, leaf)
            drawn.append(int(self._leaf_item[leaf]))
        return drawn

    def _closed_leaves(self, user: int) -> NDArray[np.int32]:
        return self._closed[self._offsets[user] : self._offsets[user + 1]]


def _open_leaf(closed: list[int], begin: int, end: int, which: float) -> int:
    """Of a range's leaves not in `closed` (sorted, distinct), the one at share `which`; -1 if there is none."""
    low, high = bisect_left(closed, begin), bisect_left(closed, end)
    left = end - begin - (high - low)
    if left == 0:
        return -1
    at = begin + int(which * left)
    # Every closed leaf before it pushes it one further; closed[k] - (k - low) grows with k, and so can be searched.
    return at + bisect_right(range(low, high), at, key=lambda k: closed[k] - (k - low))
