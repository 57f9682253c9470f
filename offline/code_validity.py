"""How many of the codes that a decoder returns name an item.

Shapes: K sequences of one user, L levels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie


def code_validity(
    answers: Sequence[NDArray[np.uint8]], lists: Sequence[Sequence[int]], codes: ItemCodes
) -> dict[str, float]:
    """`invalid_codes`, the share of all returned sequences that are no item's code, and `items_per_user`, the mean
    length of the lists that were made of them.

    Args:
        answers: the sequences returned to each user; uint8 [K, L], K may differ.
        lists: the items each user is left with.
        codes: the catalogue's.
    """
    returned = np.concatenate(answers)
    invalid = np.count_nonzero(codes.items_of(returned) < 0)
    return {
        "invalid_codes": invalid / len(returned) if len(returned) else 0.0,
        "items_per_user": float(np.mean([len(items) for items in lists])),
    }


def spelled(trie: PrefixTrie, items: Sequence[int]) -> NDArray[np.uint8]:
    """The tokens on the way through a trie to each item, as its decoder follows them; uint8 [K, L]."""
    return trie.token[trie.paths(np.array(items, dtype=np.int64))]
