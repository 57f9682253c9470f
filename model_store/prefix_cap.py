"""Diversity by code: at most so many items of a list share the first codes of their code.

Codes are learned so that like items share prefixes; a cap on each prefix keeps a list from being all of one kind.

Shapes: K nodes or items, best first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.prefix_trie import PrefixTrie


def turn_of_each(groups_K: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many of the same group come before each; int64 [K].

    >>> turn_of_each(np.array([7, 7, 3, 7]))
    array([0, 1, 0, 2])
    """
    order = np.argsort(groups_K, kind="stable")
    ordered = groups_K[order]
    begins = np.ones(len(ordered), dtype=np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    places = np.arange(len(ordered))
    turns = np.empty(len(ordered), dtype=np.int64)
    turns[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return turns


def reserved_places(n: int, width: int) -> int:
    """Places of a beam that are kept for the best of each prefix.

    At least n, which is what a list of n items takes (see `PrefixCap`). Half of the beam for shorter lists: lists of
    different lengths, which is what pages are made of, then come from the same beam.
    """
    return max(n, width // 2)


@dataclass(frozen=True, slots=True)
class PrefixCap:
    """The cap of one decode.

    A beam search under a cap takes the best `most` nodes of each prefix, and reserves places for the best R of these.
    The rest of the beam goes to the best of all others. With R and a width of n or more it returns min(n, the sum over
    prefixes of min(most, items that may be shown below it)) items:

    - While a level has no more than R nodes within the cap, all of these are kept: if fewer than `most` nodes of a
      prefix survive, none of it was ever dropped, and in the end it gives all its items, or else `most` of them.
    - Once it has more, R of them are kept. Each is open, and so is one of its children, in the same prefix: the next
      level has R nodes within the cap again, and so on to the last.

    Above the capped depth each node begins prefixes of its own, and the same holds with nodes in place of prefixes.
    The rest of the beam is left to the scores because the best item of a prefix may lie below a node that is not among
    its best; where nothing has to be dropped, the search is exact.

    Attributes:
        trie: the whole catalogue's.
        levels: how many codes make a prefix, 1 to L.
        most: items of one prefix.
    """

    trie: PrefixTrie
    levels: int
    most: int

    def within(self, leaves_K: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these leaves, best first, a list takes that goes through them in order; bool [K]."""
        return turn_of_each(self.trie.prefixes(leaves_K, self.levels)) < self.most
