"""The cap on items of one answer that share a code prefix: how much room each prefix has left.

Whatever part an item comes from, it takes room of its prefix, and whoever goes through a list takes each item that has
room. Lists made in that way are as long as any can be, because the room of one prefix is of no use to another.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from model_store.prefix_cap import turn_of_each
from model_store.prefix_trie import EligibleItems, PrefixTrie


class PrefixQuota:
    """Counts the items of one answer by prefix.

    Args:
        trie: the codes of the catalogue.
        levels: how many codes make a prefix.
        most: items of one prefix.
    """

    def __init__(self, trie: PrefixTrie, levels: int, most: int) -> None:
        self.levels, self.most = levels, most
        self._trie = trie
        self._used: dict[int, int] = {}

    def take(self, item: int) -> bool:
        """Take room for an item, if its prefix has any."""
        prefix = int(self._prefixes(np.array([item]))[0])
        used = self._used.get(prefix, 0)
        if used < self.most:
            self._used[prefix] = used + 1
        return used < self.most

    def has_room(self, items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these items could be taken next; bool [K]."""
        return self._used_of(self._prefixes(items)) < self.most

    def fitting(self, items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these items would be taken, one after the other; bool [K]."""
        prefixes = self._prefixes(items)
        return self._used_of(prefixes) + turn_of_each(prefixes) < self.most

    def anything_left(self, eligible: EligibleItems, hidden: Collection[int]) -> bool:
        """Whether an eligible item that is not hidden could be taken."""
        trie = self._trie
        level = slice(trie.level_begin[self.levels], trie.level_begin[self.levels + 1])
        left = eligible.counts[trie.leaf_end[level]] - eligible.counts[trie.leaf_begin[level]]
        gone = np.fromiter(hidden, np.int64, len(hidden))
        left -= np.bincount(self._prefixes(gone[eligible.mask[gone]]), minlength=len(left)).astype(left.dtype)
        left[[prefix for prefix, used in self._used.items() if used >= self.most]] = 0
        return bool(left.any())

    def _prefixes(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        return self._trie.prefixes(self._trie.item_leaf[items], self.levels)

    def _used_of(self, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self._used:
            return np.zeros(len(prefixes), dtype=np.int64)
        known = np.array(sorted(self._used.items()), dtype=np.int64)
        at = np.minimum(np.searchsorted(known[:, 0], prefixes), len(known) - 1)
        return np.where(known[at, 0] == prefixes, known[at, 1], 0)
